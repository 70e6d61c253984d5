"""Where an export may write, and what is refused before anything is made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial.made_run import begun_run

from finetune.cli import app
from finetune.errors import ArtifactError, RecipeError
from finetune.export import check_place, gguf_file, names
from finetune.export.converter import find
from finetune.export.made import make_room, making_room
from finetune.run import Entry, Run, manifest


@pytest.fixture
def run(pico_base: Path, tmp_path: Path) -> Run:
    """One whose adapter was written for vLLM in a folder of its own."""
    run = begun_run(pico_base, tmp_path, "method=lora")
    (served := run.path / "served").mkdir()
    (served / "adapter_config.json").touch()
    noted(run, "vllm", served / "adapter_config.json")
    return run


def noted(run: Run, stage: str, file: Path) -> None:
    manifest.add(run.manifest, Entry(stage, {}, {run.named(file): "hash"}, [], {}, 0.0, manifest.now()))


def test_the_run_s_other_parts_and_its_base_take_no_export(run: Run, pico_base: Path) -> None:
    (link := run.path.with_name("link")).symlink_to(run.path)
    parts = [run.path / name for name in (".", "merged", "merged/x", "adapter", "weights", "checkpoints", "served")]
    for folder in (*parts, pico_base, pico_base / "x", link / "merged", run.path / "gguf" / ".." / "adapter"):
        with pytest.raises(ArtifactError, match="another part of the run"):
            check_place(run, "export", folder)
    (file := run.path.with_name("file")).touch()
    for folder in (file, file / "x"):
        with pytest.raises(ArtifactError, match="this is no folder"):
            check_place(run, "export", folder)
    for folder in (run.path / "gguf", run.path / "new", run.path.with_name("new") / "gguf", run.path.parent):
        check_place(run, "export", folder)
    check_place(run, "vllm", run.path / "served")


@pytest.mark.parametrize("name", ["RUN-Q8_0.gguf", "RUN-LORA-F32.gguf", "mmproj-RUN-F16.gguf", "Modelfile"])
def test_a_file_that_the_manifest_does_not_name_is_never_replaced_outside_of_the_run(run: Run, name: str) -> None:
    written = names(run, ["q8_0"], ["adapter", "projector"])
    name = name.replace("RUN", run.name)
    for folder in (run.path / "gguf", run.path.with_name("big")):
        folder.mkdir()
        (folder / name).touch()
    check_place(run, "export", run.path / "gguf", written)  # a kill left it
    big = run.path.with_name("big")
    with pytest.raises(ArtifactError, match=f"another {name} lies there"):
        check_place(run, "export", big, written)
    check_place(run, "export", big, names(run, ["bf16"], []) if "-" in name and "mmproj" not in name else [])
    noted(run, "export", big / name)
    check_place(run, "export", big, written)
    check_place(run, "export", Path(os.path.relpath(big)), written)


def test_only_what_a_kill_of_this_very_run_left_is_taken_away(run: Run, tmp_path: Path) -> None:
    longer, twin = Run(run.path.with_name(f"{run.name}-0001")), Run(tmp_path / "other" / run.name)
    with making_room(tmp_path, longer) as one, making_room(tmp_path, twin) as two, making_room(tmp_path, run) as left:
        make_room(tmp_path, run, 0)
        assert (one.exists(), two.exists(), left.exists()) == (True, True, False)


def test_words_that_cannot_be_followed_are_refused_before_torch_is_imported(run: Run) -> None:
    told = """
import sys
from finetune.cli import app
from finetune.errors import RecipeError
for words in (["--gguf", "q4"], ["--out", ""], ["--vllm", "--out", ""]):
    try:
        app.app(["export", sys.argv[1], *words], standalone_mode=False)
    except RecipeError as error:
        print(error.problems[0].what, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", told, str(run.path)], capture_output=True, text=True, check=False)
    empty = "no folder has an empty name False"
    assert done.stdout.splitlines() == ["there is no kind 'q4' False", empty, empty], done.stderr


def test_the_command_asks_before_it_makes_anything(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, what in [
        (["--gguf", "q8_0", "--out", str(run.merged)], "another part of the run"),
        (["--vllm", "--out", str(run.path / "gguf" / ".." / "adapter")], "another part of the run"),
    ]:
        with pytest.raises(ArtifactError, match=what):
            app.app(["export", str(run.path), *words], standalone_mode=False)
    monkeypatch.setenv("OLLAMA_HOST", "foo bar")
    with pytest.raises(RecipeError, match="OLLAMA_HOST names no server"):
        app.app(["export", str(run.path), "--ollama", "legal"], standalone_mode=False)
    assert not gguf_file(run, run.path / "gguf", "q4_k_m").exists()
    assert [stage["stage"] for stage in manifest.read(run.manifest)["stages"]] == ["vllm"]


def test_where_no_converter_can_be_kept_another_folder_is_proposed() -> None:
    with pytest.raises(ArtifactError, match="this cannot be written") as told:
        find(None, Path("/proc/nope/finetune"))
    assert told.value.problems[0].fix.startswith("export XDG_CACHE_HOME=")
