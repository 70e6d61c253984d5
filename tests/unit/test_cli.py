"""The commands that only look, called as a user calls them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRADES = ("code", "demo", "finance", "legal", "manufacturing", "medical", "support")


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
    planned = finetune("plan", f"recipes/{trade}.yaml", "--json", *words, cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["trainable_parameters"] == 108_789_760


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


def test_version_is_the_packages() -> None:
    from finetune import __version__

    assert finetune("--version").stdout == f"finetune {__version__}\n"
