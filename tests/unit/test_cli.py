"""The commands that only look, called as a user calls them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.cli.chatting import _usable
from finetune.errors import RecipeError
from finetune.run import Run, create, manifest

ROOT = Path(__file__).parents[2]
TRADES = ("code", "demo", "finance", "legal", "manufacturing", "medical", "support")

OTHERS = {
    "legal-moe": ("rtx4090", 1),
    "legal-moe-8gpu": ("rtx4090x8", 1),
    "legal-cluster": ("rtx4090x8", 2),
}
"""Recipes of a trade's rows for other bases and machines -> the GPUs and the number of machines they are meant for."""


def finetune(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "finetune", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


@pytest.mark.parametrize("trade", TRADES)
def test_init_writes_a_recipe_that_plans(trade: str, tmp_path: Path) -> None:
    done = finetune("init", trade, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"finetune train recipes/{trade}.yaml" in done.stdout
    words = ["--set", "base=Qwen/Qwen3.6-27B"] if trade == "demo" else []
    planned = finetune("plan", f"recipes/{trade}.yaml", "--gpu", "24GB", "--json", *words, cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["trainable_parameters"] == 108_789_760


@pytest.mark.parametrize("name", OTHERS)
def test_init_writes_the_other_recipes_of_a_trade_beside_its_rows(name: str, tmp_path: Path) -> None:
    gpus, nodes = OTHERS[name]
    rows = tmp_path / "data_templates" / "legal" / "train.jsonl"
    done = finetune("init", name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"finetune train recipes/{name}.yaml" in done.stdout
    planned = finetune("plan", f"recipes/{name}.yaml", "--gpu", gpus, "--nodes", str(nodes), "--json", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    told = json.loads(planned.stdout)
    assert (told["fits"], told["nodes"]) == (True, nodes)
    assert len(rows.read_text().splitlines()) == 24


def test_rows_that_are_here_are_learnt_by_other_recipes_of_the_trade_and_never_overwritten(tmp_path: Path) -> None:
    finetune("init", "legal", cwd=tmp_path)
    rows = tmp_path / "data_templates" / "legal" / "train.jsonl"
    rows.write_text("mine")
    done = finetune("init", "legal-cluster", cwd=tmp_path)
    assert (done.returncode, rows.read_text()) == (0, "mine")
    assert "wrote recipes/legal-cluster.yaml; it learns the rows of data_templates/legal/" in done.stdout
    assert finetune("init", "legal-cluster", cwd=tmp_path).returncode == 2
    (tmp_path / "recipes" / "legal.yaml").unlink()
    done = finetune("init", "legal", cwd=tmp_path)
    assert (done.returncode, rows.read_text()) == (0, "mine")


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    finetune("init", "legal", cwd=tmp_path)
    (tmp_path / "recipes" / "legal.yaml").write_text("mine")
    done = finetune("init", "legal", cwd=tmp_path)
    assert done.returncode == 2
    assert "would overwrite your work" in done.stderr
    assert (tmp_path / "recipes" / "legal.yaml").read_text() == "mine"


def test_init_of_a_misspelt_trade_names_the_near_one(tmp_path: Path) -> None:
    done = finetune("init", "leagl", cwd=tmp_path)
    assert (done.returncode, done.stderr.splitlines()[-1].strip()) == (2, "fix   finetune init legal")
    assert "legal (legal-cluster, legal-moe, legal-moe-8gpu), manufacturing" in done.stderr


def test_recipe_show_writes_the_defaults_out(tmp_path: Path) -> None:
    finetune("init", "legal", cwd=tmp_path)
    done = finetune("recipe", "show", "recipes/legal.yaml", "--set", "lora.rank=8", cwd=tmp_path)
    assert "train: ../data_templates/legal/train.jsonl" in done.stdout
    assert "rank: 8" in done.stdout
    assert "too_long: drop" in done.stdout


def test_runs_of_an_empty_folder_says_how_to_begin(tmp_path: Path) -> None:
    done = finetune("runs", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "no runs in runs; begin one: finetune train recipes/legal.yaml\n")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("train",), 2, "name a recipe or a run to resume"),
        (("train", "a.yaml", "--resume", "runs/a-0001"), 2, "name a recipe or a run to resume"),
        (("train", "--resume", "runs/nothing-0001"), 6, "runs/nothing-0001"),
        (("train", "absent.yaml"), 2, "there is no such recipe"),
        (("chat", "runs/nothing-0001"), 6, "runs/nothing-0001"),
        (("show", "."), 6, "error:"),
        (("plan", "recipes/legal.yaml", "--set", "base=./absent"), 6, "there is no such base"),
    ],
)
def test_a_mistake_is_told_in_our_words_with_its_exit_code(words: tuple[str, ...], code: int, told: str) -> None:
    done = finetune(*words)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_init_of_a_recipe_that_is_here_says_how_to_use_it(tmp_path: Path) -> None:
    finetune("init", "legal", cwd=tmp_path)
    done = finetune("init", "legal", cwd=tmp_path)
    assert done.stderr.splitlines()[-2:] == [
        "  why   it exists already, and can be used as it is: finetune plan recipes/legal.yaml",
        "  fix   finetune init legal another-folder",
    ]


def test_a_terminal_that_lacks_a_character_ends_no_command(tmp_path: Path) -> None:
    plan = f"finetune plan {ROOT}/recipes/legal.yaml --gpu 24GB"
    done = shell(f"PYTHONIOENCODING=ascii {plan}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "###" in done.stdout
    done = shell(f"PYTHONIOENCODING=ascii {plan} --json --why-not 'system=f\u00fcr'", tmp_path)
    assert json.loads(done.stdout)["why_not"] == {"system=f\u00fcr": "that is what the plan does"}


def test_version_is_the_packages() -> None:
    from finetune import __version__

    assert finetune("--version").stdout == f"finetune {__version__}\n"


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a line of bash in which `finetune` is the command; its exit code is the first failure of a pipe."""
    prelude = f'set -o pipefail; finetune() {{ "{sys.executable}" -m finetune "$@"; }}; '
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = ["bash", "-c", prelude + line]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("finetune init demo /etc/passwd", 6, "this cannot be written"),
        ("finetune init demo /dev/null/x", 6, "Not a directory"),
        ("ln -s loop loop; finetune init demo loop", 6, "Too many levels of symbolic links"),
        (f"finetune init demo {'x' * 300}", 6, "File name too long"),
        ("finetune demo-base ''", 2, "a demo base needs a folder with a name of its own"),
        ("finetune demo-base ..", 2, "a demo base needs a folder with a name of its own"),
        ("finetune runs --runs /etc/passwd", 2, "this is not a folder of runs"),
        (f"finetune show {'x' * 300}", 6, "there is no such run"),
        ("mkdir gone; cd gone; rmdir ../gone; finetune runs", 5, "the working folder is gone"),
        ("finetune recipe schema > /dev/full", 4, "the disk is full"),
        ("finetune runs > /dev/full", 4, "the disk is full"),
        ("finetune init demo 2> /dev/full; finetune init demo 2> /dev/full; echo error: $? >&2", 0, "error: 2"),
    ],
)
def test_a_place_that_cannot_be_used_is_told(line: str, code: int, told: str, tmp_path: Path) -> None:
    done = shell(line, tmp_path)
    assert (done.returncode, done.stderr.count("error:")) == (code, 1), done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "finetune recipe schema | true",
        "finetune runs | true",
        "finetune runs | { exec <&-; sleep 1; }",
        "finetune --help | { exec <&-; sleep 1; }",
        "finetune runs >&-",
        "finetune runs <&- >&- 2>&-",
    ],
)
def test_a_reader_who_goes_away_is_no_error(line: str, tmp_path: Path) -> None:
    done = shell(line, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def begun(runs: Path) -> Run:
    """Makes a run that lacks nothing that a listing reads."""
    plan = finetune("plan", "recipes/legal.yaml", "--gpu", "24GB", "--json").stdout
    facts = {
        "serving": {"thinking": None, "preserve_thinking": False, "system": None},
        "contract": dict.fromkeys(manifest.BEGUN["contract"], ""),
        "notes": [],
    }
    return create(runs, "legal", "base: x\n", plan, facts)


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: run.metrics.write_text("{\n"),
        lambda run: run.metrics.mkdir(),
        lambda run: run.metrics.write_text('{"step": 1, "held_out_loss": "low"}\n'),
        lambda run: run.plan.write_text("[]"),
        lambda run: run.manifest.write_text(run.manifest.read_text().replace("threads", "knots")),
    ],
    ids=["broken metrics", "metrics a folder", "loss not a number", "plan", "contract"],
)
def test_a_damaged_run_does_not_hide_the_others(damage: Callable[[Run], Any], tmp_path: Path) -> None:
    damage(begun(tmp_path))
    begun(tmp_path)
    done = finetune("runs", "--runs", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    assert [row["state"] for row in json.loads(done.stdout)] == ["damaged", "unfinished"]


@pytest.mark.parametrize("wrong", ["nan", "inf", "100.5", "-1"])
def test_a_temperature_that_divides_nothing_is_refused(wrong: str) -> None:
    assert finetune("chat", "runs/x", "--temperature", wrong).returncode == 2


def test_a_temperature_next_to_zero_is_zero() -> None:
    assert [_usable(asked) for asked in (None, 0.0, 1e-5, 1e-4, 100.0)] == [None, 0.0, 0.0, 1e-4, 100.0]
    with pytest.raises(RecipeError, match="cannot be nan"):
        _usable(float("nan"))


@pytest.mark.parametrize("words", [("--max-tokens", "1000001"), ("--prompt", "\udcff"), ("--prompt", " ")])
def test_a_chat_that_cannot_be_held_is_refused_before_the_run_is_opened(words: tuple[str, str]) -> None:
    done = finetune("chat", "runs/nothing-0001", *words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
