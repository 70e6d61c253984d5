"""A run is numbered, made whole or not at all, and found again."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import finetune
from finetune.errors import ArtifactError
from finetune.run import Run, anew, create, list_runs, manifest, open_run, resume

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(finetune.__file__).parents[1])}

RACER = """
import sys
from pathlib import Path
from finetune.run import create
print("ready", flush=True)
sys.stdin.readline()
for _ in range(8):
    create(Path(sys.argv[1]), "legal", "base: x\\n", "{}\\n", {})
"""


def make(runs: Path, name: str = "legal") -> Run:
    return create(runs, name, "base: x\n", "{}\n", {"base": "Qwen/Qwen3.6-27B"})


def test_a_new_run_holds_the_recipe_the_plan_and_a_manifest_without_stages(tmp_path: Path) -> None:
    run = make(tmp_path / "runs")
    assert run == Run(tmp_path / "runs" / "legal-0001")
    assert sorted(os.listdir(run.path)) == ["manifest.json", "plan.json", "recipe.yaml"]
    assert run.recipe.read_text() == "base: x\n"
    assert run.plan.read_text() == "{}\n"
    head = manifest.read(run.manifest)
    assert head.pop("created").endswith("+00:00")
    assert head == {"format": 1, "run": "legal-0001", "base": "Qwen/Qwen3.6-27B", "stages": []}


@pytest.mark.parametrize("place", ["file", "file/below", "loop", "/proc/x", "/dev/null/x", "x" * 300])
def test_a_folder_of_runs_that_takes_none_is_told(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ArtifactError) as refusal:
        make(tmp_path / place)
    told = refusal.value.problems[0]
    assert (told.what, told.where) == ("this cannot be written", str(tmp_path / place))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_of_runs_that_is_read_only_is_told(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ArtifactError) as refusal:
        make(tmp_path / "runs")
    assert refusal.value.problems[0].why == os.strerror(number)


def test_a_folder_of_runs_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> list[str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(ArtifactError) as refusal:
        list_runs(tmp_path)
    assert refusal.value.problems[0].why == "Permission denied"


def test_the_file_names_of_a_run_are_these() -> None:
    run = Run(Path("r"))
    names = {name: getattr(run, name) for name, value in vars(Run).items() if isinstance(value, property)}
    assert names.pop("name") == "r"
    assert {name: str(path.relative_to("r")) for name, path in names.items()} == {
        "recipe": "recipe.yaml",
        "plan": "plan.json",
        "manifest": "manifest.json",
        "metrics": "metrics.jsonl",
        "adapter": "adapter",
        "weights": "weights",
        "merged": "merged",
        "checkpoints": "checkpoints",
        "plot": "loss.png",
        "router": "router.json",
        "router_plot": "router.png",
        "router_base": "router_base.safetensors",
        "ledger": "ledger.json",
        "ledger_plot": "ledger.png",
        "evaluation": "eval/evaluation.json",
        "evaluated_items": "eval/items.jsonl",
        "report": "report.html",
        "lock": ".lock",
    }


def test_a_number_follows_the_highest_and_never_fills_a_gap(tmp_path: Path) -> None:
    (tmp_path / "legal-0007").mkdir()
    (tmp_path / "legal-small-0030").mkdir()
    (tmp_path / "legal-0012").write_text("a file bears a number too")
    assert make(tmp_path).name == "legal-0013"
    assert make(tmp_path).name == "legal-0014"
    assert make(tmp_path, "legal-small").name == "legal-small-0031"


def test_the_number_grows_beyond_four_digits_and_runs_stay_sorted(tmp_path: Path) -> None:
    (tmp_path / "legal-9998").mkdir()
    names = [make(tmp_path).name for _ in range(2)]
    assert names == ["legal-9999", "legal-10000"]
    assert [run.name for run in list_runs(tmp_path)] == names


def test_two_processes_at_once_get_different_numbers_and_no_gap(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACER, str(tmp_path)]
    racers = [
        subprocess.Popen(
            command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == b"ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write(b"\n")
        racer.stdin.flush()
    for racer in racers:
        assert racer.communicate()[1] == b""
        assert racer.returncode == 0
    expected = [f"legal-{number:04d}" for number in range(1, 17)]
    assert sorted(os.listdir(tmp_path)) == expected
    assert [manifest.read(run.manifest)["run"] for run in list_runs(tmp_path)] == expected


def test_who_loses_the_race_takes_the_next_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.rename

    def lose_once(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "rename", real)
        target.mkdir()
        (target / "recipe.yaml").write_text("another process's")
        real(source, target)

    monkeypatch.setattr(os, "rename", lose_once)
    assert make(tmp_path).name == "legal-0002"
    assert (tmp_path / "legal-0001" / "recipe.yaml").read_text() == "another process's"
    assert json.loads((tmp_path / "legal-0002" / "manifest.json").read_text())["run"] == "legal-0002"


def test_runs_are_listed_by_name_and_number_without_what_was_left_half_made(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "none") == []
    for name in ("medical", "legal", "legal"):
        make(tmp_path, name)
    staging = tmp_path / ".staging-legal-1-00"
    (tmp_path / "legal-0002").rename(staging)
    (tmp_path / "legal-0003").mkdir()
    (tmp_path / "notes.txt").touch()
    assert [run.name for run in list_runs(tmp_path)] == ["legal-0001", "medical-0001"]
    assert staging.is_dir()


def test_an_existing_run_is_opened(tmp_path: Path) -> None:
    run = make(tmp_path)
    assert open_run(tmp_path / "legal-0001") == run


def test_a_run_that_is_not_there_is_told_with_the_nearest(tmp_path: Path) -> None:
    for name in ("legal", "legal", "medical"):
        make(tmp_path, name)
    with pytest.raises(ArtifactError) as refusal:
        open_run(tmp_path / "legal-0003")
    problem = refusal.value.problems[0]
    assert problem.what == "there is no such run"
    assert problem.where == str(tmp_path / "legal-0003")
    named = problem.fix.split(" or ")
    assert set(named[:2]) == {str(tmp_path / "legal-0001"), str(tmp_path / "legal-0002")}
    assert open_run(Path(named[0])).path == Path(named[0])


def test_a_bare_name_is_looked_for_in_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError) as refusal:
        open_run(Path("legal-0001"))
    assert refusal.value.problems[0].fix == "runs/legal-0001"


def test_a_folder_inside_a_run_names_the_run(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.adapter.mkdir()
    with pytest.raises(ArtifactError) as refusal:
        open_run(run.adapter)
    problem = refusal.value.problems[0]
    assert problem.what == "this folder is not a run"
    assert problem.why == "recipe.yaml, plan.json, manifest.json missing"
    assert problem.fix == str(run.path)


def test_without_any_run_the_fix_is_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such run") as refusal:
        open_run(tmp_path / "legal-0001")
    assert refusal.value.problems[0].fix.startswith("finetune train ")


def test_the_room_is_imported_without_torch_and_fast() -> None:
    code = "import sys, finetune.run; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    modules = set(loaded.stdout.split())
    assert not modules & {"torch", "numpy", "pydantic", "yaml", "transformers", "subprocess", "asyncio"}
    ours = {name for name in modules if name.startswith("finetune") and not name.startswith("finetune.run")}
    assert ours == {"finetune", "finetune.atomic", "finetune.errors"}


def test_the_commands_for_a_run_are_as_a_shell_reads_them() -> None:
    run = Run(Path("my runs/legal-0001"))
    assert resume(run.path) == "finetune train --resume 'my runs/legal-0001'"
    assert anew(run) == "finetune train 'my runs/legal-0001/recipe.yaml'"


def test_a_run_behind_a_link_is_the_folder_itself(tmp_path: Path) -> None:
    run = make(tmp_path / "runs")
    (tmp_path / "link").symlink_to(run.path)
    assert open_run(tmp_path / "link").path == run.path.resolve()
