"""`finetune report`: a run's files as one page that opens from disk and asks nobody for anything."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from finetune import __version__, atomic
from finetune.report import compared, heading, measured, telling
from finetune.report.drawing import loss_curve
from finetune.report.evaluation import BASE, TUNED
from finetune.report.places import Places, places_of, shown
from finetune.report.reading import Evidence, read_evidence
from finetune.run import Run, outputs, resume

_HERE = Path(__file__).parent

MARK = '<meta name="finetune-run" content="'
"""By which a page of ours is known."""


def report(run: Run, out: Path) -> dict[str, Any]:
    """Writes the page, and gives what it says in short and where it lies.

    Args:
        run: finished or not; what was not made yet is named with the command that makes it.
        out: the page.

    Raises:
        ArtifactError: a file of the run is damaged or another one than was proven; or nothing can be written there.
    """
    told, text = written(run)
    with atomic.refusal_told(out, "--out ANOTHER-FILE"):
        atomic.write_text(out, text)
    return {**told, "report": str(out)}


def written(run: Run) -> tuple[dict[str, Any], str]:
    """Gives what a report says in short, and the text of its page.

    Args:
        run: as for `report`.

    Raises:
        ArtifactError: a file of the run is damaged or another one than was proven.
    """
    evidence = read_evidence(run)
    head = heading.headline(evidence)
    told = {
        "run": run.name,
        "verdict": asdict(head),
        "tasks": _tasks(evidence),
        "gate": asdict(evidence.evaluation.gate) if evidence.evaluation else None,
        "missing": missing(evidence, run),
    }
    return told, page(evidence, head)


def page(evidence: Evidence, head: heading.Headline) -> str:
    """Renders the page; every text in it is escaped, and its policy allows its own style and nothing else.

    No path, host or user of a machine stands in it, but what items of the evaluation asked and were answered.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    places = places_of(evidence.run)
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True,
        loader=FileSystemLoader(_HERE),
        undefined=StrictUndefined,
        finalize=partial(_readable, places),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html").render(
        style=style,
        policy=f"default-src 'none'; style-src 'sha256-{_hash(style)}'",
        head=head,
        version=__version__,
        evidence=evidence,
        missing=missing(evidence, shown(evidence.run)),
        marks=compared.MARKS,
        **_parts(evidence),
    )


def _readable(places: Places, value: Any) -> Any:
    """Spells out what hides in any text, and shortens its paths; what a template drew stays as it is."""
    return compared.readable(places.without(value)) if type(value) is str else value


def missing(evidence: Evidence, run: Run) -> dict[str, str]:
    """Gives of each part that is not there the command that makes it.

    Args:
        evidence: of the run.
        run: as the commands call it.
    """
    found = {}
    if evidence.last("train") is None:
        found["training"] = resume(run.path)
    if evidence.evaluation is None:
        found["evaluation"] = outputs.command("evaluate", run)
    if evidence.ledger is None:
        found["ledger"] = outputs.command("ledger", run)
    return found


def _parts(evidence: Evidence) -> dict[str, Any]:
    evaluation, train = evidence.evaluation, evidence.last("train")
    return {
        "name": evidence.run.name,
        "facts": _facts(evidence, train),
        "evaluation": evaluation,
        "tables": compared.tables(evaluation, evidence.repeated) if evaluation else [],
        "asked": compared.asked_alike(evaluation) if evaluation else [],
        "flipped": compared.flipped(evidence) if evaluation else [],
        "curve_told": loss_curve(evidence.records, evidence.plan.steps),
        "data": measured.data(evidence),
        "planned": measured.planned(evidence),
        "ledger": measured.ledger(evidence),
        "routers": measured.routers(evidence),
        "chain": measured.chain(evidence),
        "notes": [*evidence.manifest["notes"], *(evaluation.notes if evaluation else ())],
        "recipe_text": evidence.run.recipe.read_text(encoding="utf-8"),
    }


def _facts(evidence: Evidence, train: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What stands at the head: from what to what, when, on what."""
    plan = evidence.plan
    revision = f" at {plan.revision[:12]}" if plan.revision else ""
    adapter = f", rank {plan.rank}" if plan.method != "full" else ""
    count = f"{plan.processes} × " if plan.processes > 1 else ""
    told = [
        ("base", f"{plan.base}{revision}"),
        ("tuned", f"{plan.method}{adapter}, {plan.trainable_parameters:,} parameters trained, {plan.steps:,} steps"),
        ("on", f"{count}{plan.gpu or plan.device}"),
    ]
    if train:
        told.append(("trained", f"{telling.when(train['finished'])}, in {telling.duration(train['seconds'])}"))
    if evaluation := evidence.evaluation:
        engines = dict.fromkeys(side.engine for side in evaluation.sides.values() if side.engine)
        told.append(("evaluated", f"{telling.when(evaluation.made)}, {'; '.join(engines)}"))
    return told


def _tasks(evidence: Evidence) -> list[dict[str, Any]]:
    if evidence.evaluation is None:
        return []
    return [
        {
            "task": task.name,
            "set": task.set,
            "items": task.items,
            "before": telling.figure(task.scores[BASE].value, task),
            "after": telling.figure(task.scores[TUNED].value, task),
            "difference": telling.change(task.main.difference.value, task),
            "interval": telling.span(task.main.difference, task),
            "verdict": task.main.verdict,
            "majority": asdict(task.majority) if task.majority else None,
            "same_as": evidence.repeated.get(task.name),
        }
        for task in evidence.evaluation.tasks
        if task.main is not None
    ]


def _hash(text: str) -> str:
    return b64encode(hashlib.sha256(text.encode()).digest()).decode()
