"""The files that go up with every form of a model: each is what its stage proved, and all speak of one evaluation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from finetune.errors import ArtifactError
from finetune.publish.staging import BESIDE, WITH_EXAMPLES
from finetune.run import Run, atomic, outputs

MEASURED = re.compile(r'<meta name="finetune-evaluation" content="([0-9a-f]*)">')
"""By which a report says the sha256 of the evaluation whose rows it shows; empty if there was none."""


def check_beside(run: Run, told: dict[str, Any]) -> None:
    """Compares what goes up with every form with its hash; each is made again by the command of its own stage.

    The items of an evaluation are what its figures and the report are searched for, so they must be there as well.

    Args:
        run: whose files.
        told: its manifest.

    Raises:
        ArtifactError: one is another than was proven, its items are gone, or the report is of another evaluation.
    """
    made = outputs.made_by(told)
    shows_items = run.evaluation.is_file() or run.report.is_file()
    for name in (*BESIDE, *WITH_EXAMPLES):
        needed = shows_items and name == run.named(run.evaluated_items)
        if name in made and (needed or (run.path / name).is_file()):
            digest, stage = made[name]
            outputs.check(run, {name: digest}, outputs.command(stage, run))
    if run.report.is_file() and not run.report.is_symlink():  # a link is refused by its name
        _check_report(run.report, run)


def _check_report(page: Path, run: Run) -> None:
    now = atomic.sha256(run.evaluation) if run.evaluation.is_file() else ""
    found = MEASURED.search(page.read_text(encoding="utf-8", errors="replace"))
    if found is None or found[1] != now:
        why = "it may show rows and figures that nothing here is compared with" if found else "it does not say of which"
        what = "the report is not of the newest evaluation"
        raise ArtifactError(what, where=str(page), why=why, fix=outputs.command("report", run))
