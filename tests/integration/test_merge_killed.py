"""A merge that is killed, wherever, is given again and ends the same; and until then nothing bears the merged name."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial import struck
from trial.made_run import made_run

from finetune.cli import app, merging
from finetune.errors import Interrupted
from finetune.merge import merge
from finetune.run import Run, atomic, manifest

INSTANTS = 4
"""Random ones; the proof `merge` has more."""


@pytest.fixture(scope="module")
def reference(pico_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, str], float]:
    """A run, what an uninterrupted merge makes of it, and how long that takes."""
    folder = tmp_path_factory.mktemp("reference")
    run = made_run(pico_base, folder, "method=lora")
    copy = beside(run, "uninterrupted")
    end = struck.work(lambda: merge_quietly(copy), folder / "log")
    assert end.code == 0, (folder / "log").read_text()
    return run, hashes(copy), end.seconds


def beside(run: Run, name: str) -> Run:
    """Copies a run; its recipe names base and rows from where it lies, so a copy lies beside it."""
    return Run(shutil.copytree(run.path, run.path.with_name(name)))


def merge_quietly(run: Run) -> None:
    merge(run, "bf16", None, lambda line: None, lambda *told: None)


def hashes(run: Run) -> dict[str, str]:
    return {file.name: atomic.sha256(file) for file in run.merged.iterdir()}


def check_half(run: Run, expected: dict[str, str]) -> None:
    """Whatever bears the name is whole, and the manifest tells of nothing else."""
    stages = [stage["stage"] for stage in manifest.read(run.manifest)["stages"]]
    assert stages in (["train"], ["train", "merge"])
    assert not run.merged.exists() or hashes(run) == expected
    assert stages == ["train"] or run.merged.exists()


def check_whole(run: Run, expected: dict[str, str]) -> None:
    assert hashes(run) == expected
    assert [stage["stage"] for stage in manifest.read(run.manifest)["stages"]] == ["train", "merge"]
    shown = {path.name for path in run.path.iterdir() if not path.name.startswith(".")}
    assert shown == {"recipe.yaml", "plan.json", "manifest.json", "adapter", "merged"}


def test_killed_before_every_third_name_that_it_gives_it_goes_on_and_ends_the_same(
    reference: tuple[Run, dict[str, str], float], tmp_path: Path
) -> None:
    original, expected, _ = reference
    run, kills = beside(original, "named"), 0
    while (end := struck.work(lambda: merge_quietly(run), tmp_path / "log", before_name=3)).killed:
        kills += 1
        check_half(run, expected)
        assert kills < 40, "it makes no progress"
    assert end.code == 0, (tmp_path / "log").read_text()
    assert kills > 5
    check_whole(run, expected)


@pytest.mark.parametrize("seed", range(INSTANTS))
def test_killed_at_a_random_instant_it_goes_on_and_ends_the_same(
    seed: int, reference: tuple[Run, dict[str, str], float], tmp_path: Path
) -> None:
    original, expected, seconds = reference
    run = beside(original, f"struck-{seed}")
    instant = random.Random(seed).uniform(0, seconds)
    struck.work(lambda: merge_quietly(run), tmp_path / "log", after_seconds=instant)
    check_half(run, expected)
    end = struck.work(lambda: merge_quietly(run), tmp_path / "log")
    assert end.code == 0, (tmp_path / "log").read_text()
    check_whole(run, expected)


def test_ctrl_c_ends_it_at_once_and_names_the_command_that_goes_on(
    reference: tuple[Run, dict[str, str], float], tmp_path: Path
) -> None:
    original, expected, _ = reference
    run = beside(original, "stopped")

    def stopped() -> None:
        merging.Bar.show = lambda *told: os.kill(os.getpid(), signal.SIGINT)  # type: ignore[method-assign]
        sys.argv = ["finetune", "merge", str(run.path)]
        app.main()

    end = struck.work(stopped, tmp_path / "log")
    told = (tmp_path / "log").read_text()
    assert end.code == Interrupted.exit_code, told
    assert f"error: stopped by SIGINT\n  fix   finetune merge {run.path}\n" in told
    check_half(run, expected)
    assert struck.work(lambda: merge_quietly(run), tmp_path / "log").code == 0
    check_whole(run, expected)
