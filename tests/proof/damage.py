"""Damages the newest checkpoint of a real run in 14 ways; each is refused by name and the run ends as if unharmed.

scripts/prove damage
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest
from trial import in_process, zygote
from trial.comparison import differences
from trial.damages import DAMAGES
from trial.small_run import words, write_recipe

from finetune.demo_base import make_pico_base
from finetune.errors import Interrupted
from finetune.run import list_runs

STOP_AFTER = 6
"""The stop is asked for at step 6, so the newest checkpoint is of step 7 and the one before it of step 6."""


def main() -> int:
    """Prints a line for each damage; 0 if each was refused by name and healed."""
    began, failed = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        recipe = write_recipe(work, make_pico_base(work / "pico"))
        zygote.run(words(recipe, work / "whole"), work / "log")
        reference = list_runs(work / "whole")[0].path
        run, dataset = in_process.begin(recipe, work / "stopped")
        with pytest.raises(Interrupted):
            in_process.train(run, dataset, stop_after=STOP_AFTER)
        for number, damage in enumerate(DAMAGES):
            told = _resume_damaged(damage, run.path, work / f"damaged-{number}", reference)
            failed += bool(told)
            row = f"{number + 1:>3}  {damage:<34}"
            print(row + (told or "refused by name, resumed from step 6, identical"), flush=True)
    print(f"\n{len(DAMAGES) - failed} of {len(DAMAGES)} refused and healed, in {time.monotonic() - began:.0f} s")
    return int(failed > 0)


def _resume_damaged(damage: str, stopped: Path, runs: Path, reference: Path) -> str:
    """Damages a copy of the stopped run and resumes it; says what was not as it should be."""
    file, inflict = DAMAGES[damage]
    run = Path(shutil.copytree(stopped, runs / stopped.name))
    inflict(run / "checkpoints" / "checkpoint-7")
    end = zygote.run(["train", "--resume", str(run)], runs / "log")
    refusals = [line for line in end.output.splitlines() if line.startswith("checkpoint refused: checkpoint-7: ")]
    if end.code or len(refusals) != 1 or file not in refusals[0]:
        return f"exit {end.code}, refused {refusals}\n{end.output}"
    if "resuming at step 6" not in end.output:
        return f"not resumed from the one before\n{end.output}"
    quarantine = run / "checkpoints" / ".quarantine"
    if [path.name for path in quarantine.iterdir()] != ["checkpoint-7"]:
        return "the damaged one is not in quarantine"
    shutil.rmtree(quarantine)
    return ", ".join(differences(run, reference))


if __name__ == "__main__":
    sys.exit(main())
