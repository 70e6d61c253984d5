"""What looking costs: a command that only reads never waits for torch."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "datasets", "trl", "peft", "accelerate", "bitsandbytes", "deepspeed", "numpy")

REPORT = """
import sys
from finetune.cli import main
sys.argv = ["finetune", *sys.argv[1:]]
try:
    main()
finally:
    print("imported:", *sorted(set(sys.modules) & {heavy}), file=sys.stderr)
"""


def cpu_seconds(folder: Path, *command: str) -> float:
    """Measures user and system time of a child, best of three."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, check=False, cwd=folder, env=environment(folder))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(seconds)


def allowed(seconds: float, folder: Path) -> float:
    """Stretches a bound where the machine is slower just now than one that imports these in a twelfth of a second.

    No command of ours can do without them.
    """
    imports = cpu_seconds(folder, sys.executable, "-c", "import typer.main, pydantic, yaml, jinja2")
    return seconds * max(1.0, 12 * imports)


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(folder / "cache")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "misspelt.yaml").write_text("base: a/b\ndata: {train: rows.jsonl}\nlora: {rnak: 8}\n")
    (tmp_path / "good.yaml").write_text("base: Qwen/Qwen3.6-27B\ndata: {train: rows.jsonl, eval: 0}\n")
    (tmp_path / "guide.md").write_text("A guide that is long enough for somebody to ask a question about it.\n")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Hi", "completion": "Hello"}\n')
    return tmp_path


def test_help_comes_within_a_quarter_of_a_second(folder: Path) -> None:
    assert cpu_seconds(folder, sys.executable, "-m", "finetune", "--help") <= allowed(0.25, folder)  # 0.09 was measured


def test_a_misspelt_key_is_told_within_six_tenths_of_a_second(folder: Path) -> None:
    command = (sys.executable, "-m", "finetune", "train", "misspelt.yaml")
    assert cpu_seconds(folder, *command) <= allowed(0.6, folder)  # 0.25 was measured


def test_a_plan_of_the_27b_comes_within_six_tenths_of_a_second(folder: Path) -> None:
    command = (sys.executable, "-m", "finetune", "plan", str(ROOT / "recipes" / "legal.yaml"), "--gpu", "24GB")
    assert cpu_seconds(folder, *command) <= allowed(0.6, folder)  # 0.28 was measured


def test_a_plan_for_eight_machines_looks_at_every_way_within_six_tenths_of_a_second(folder: Path) -> None:
    wishes = ("--set", "base=Qwen/Qwen3.6-35B-A3B", "--set", "train.batch_size=512")
    command = (sys.executable, "-m", "finetune", "plan", "good.yaml", "--gpu", "h100x8", "--nodes", "8", *wishes)
    assert cpu_seconds(folder, *command) <= allowed(0.6, folder)  # 0.37 was measured


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--help",), 0),
        (("train", "misspelt.yaml"), 2),
        (("plan", "misspelt.yaml"), 2),
        (("plan", "good.yaml", "--gpu", "24GB"), 0),
        (("recipe", "schema"), 0),
        (("recipe", "show", "good.yaml"), 0),
        (("runs",), 0),
        (("data", "draft", ".", "--teacher", "http://localhost", "--model", "m", "--dry-run"), 0),
    ],
)
def test_no_heavy_package_is_imported(words: tuple[str, ...], code: int, folder: Path) -> None:
    command = [sys.executable, "-c", REPORT.format(heavy=set(HEAVY)), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment(folder))
    assert done.returncode == code, done.stderr
    assert done.stderr.splitlines()[-1] == "imported:"
