"""Everything that a report is made of: files of the run that tell something, each as the manifest proved it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from finetune import atomic
from finetune.errors import ArtifactError
from finetune.plan import Plan, read_plan
from finetune.recipe import Recipe, load
from finetune.report import checking
from finetune.report.evaluation import Evaluation, Flips, read_evaluation, read_flips, repeated
from finetune.report.told import CHAIN, LEDGER, ROUTERS, Ledger, Routers
from finetune.run import Run, anew, manifest, metrics, outputs

ANY: TypeAdapter[Any] = TypeAdapter(Any)


@dataclass(frozen=True)
class Source:
    """A file that the report was made of."""

    name: str
    sha256: str
    proven_by: str
    """The stage whose entry has this hash; empty where none tells of the file."""


@dataclass(frozen=True)
class Evidence:
    """What a run tells of itself."""

    run: Run
    recipe: Recipe
    plan: Plan
    manifest: dict[str, Any]
    records: list[dict[str, Any]]
    """Of metrics.jsonl."""
    evaluation: Evaluation | None
    flips: dict[str, Flips]
    """Task -> the items that changed sides."""
    repeated: dict[str, str]
    """Task -> the earlier one whose answers it counts again."""
    ledger: Ledger | None
    routers: Routers | None
    sources: tuple[Source, ...]

    @property
    def evaluation_sha256(self) -> str:
        """Of evaluation.json; empty where there is none."""
        named = self.run.named(self.run.evaluation)
        return next((source.sha256 for source in self.sources if source.name == named), "")

    def last(self, stage: str) -> dict[str, Any] | None:
        """The newest entry of a stage, if it finished."""
        return outputs.last(self.manifest, stage)


def read_evidence(run: Run) -> Evidence:
    """Reads a run.

    Raises:
        ArtifactError: a file is damaged, or is not the one that the manifest proved.
    """
    with _refusal_told(run):
        return _read(run)


def _read(run: Run) -> Evidence:
    told = manifest.read_begun(run.manifest)
    checking.read(run.manifest, CHAIN, f"put {run.manifest.name} back from a copy, or begin anew: {anew(run)}")
    evaluate, ledger = (outputs.command(verb, run) for verb in ("evaluate", "ledger"))
    made = outputs.made_by(told)
    for file, fix in ((run.evaluation, evaluate), (run.evaluated_items, evaluate), (run.ledger, ledger)):
        if file.is_file() and run.named(file) in made:
            outputs.check(run, {run.named(file): made[run.named(file)][0]}, fix)
    evaluation = read_evaluation(run.evaluation, evaluate) if run.evaluation.is_file() else None
    has_items = evaluation is not None and run.evaluated_items.is_file()
    flips = read_flips(run.evaluated_items, evaluate) if has_items else {}
    return Evidence(
        run=run,
        recipe=load(run.recipe),
        plan=_plan(run),
        manifest=told,
        records=_records(run),
        evaluation=evaluation,
        flips=flips,
        repeated=repeated(evaluation, flips) if evaluation else {},
        ledger=_ledger(run, ledger),
        routers=checking.read(run.router, ROUTERS, f"{anew(run)}   # training writes it")
        if run.router.is_file()
        else None,
        sources=_sources(run, made),
    )


@contextmanager
def _refusal_told(run: Run) -> Iterator[None]:
    """Tells a file that nobody lets us read as what it is.

    Raises:
        ArtifactError: there is one.
    """
    try:
        yield
    except OSError as error:
        name = str(error.filename or run.path)
        fix = f"ls -l {shlex.quote(name)}   tells who may read it"
        raise ArtifactError("a file of the run cannot be read", where=name, why=str(error.strerror), fix=fix) from error


def _plan(run: Run) -> Plan:
    plan = read_plan(run.plan)
    checking.read(run.plan, ANY, f"put {run.plan.name} back from a copy, or begin anew: {anew(run)}")
    return plan


def _records(run: Run) -> list[dict[str, Any]]:
    """Reads the metrics; a loss may be no figure, as a failed run has it, but not a step or a speed."""
    records = metrics.read(run.metrics)
    for number, record in enumerate(records, start=1):
        for key in ("step", "step_seconds", "tokens_per_second"):
            if key in record and not (checking.is_figure(record[key]) and record[key] >= 0):
                raise ArtifactError(
                    "a line of the run's metrics is damaged",
                    where=f"{run.metrics}:{number}  {key}",
                    why="it is no figure",
                    fix=f"sed -i {number}d {shlex.quote(str(run.metrics))}",
                )
    return records


def _ledger(run: Run, fix: str) -> Ledger | None:
    """Reads the ledger; None where there is none."""
    if not run.ledger.is_file():
        return None
    told = checking.read(run.ledger, LEDGER, fix)
    for number, step in enumerate(told.steps):
        if step.loss is not None and step.from_trained is None:
            why = "it has a loss, and not how far from the trained model's"
            raise checking.refused(run.ledger, f"steps.{number}", why, fix)
        if step.loss is None and not step.not_measured:
            raise checking.refused(run.ledger, f"steps.{number}", "it has no loss, and no word why", fix)
    if all(step.loss is None for step in told.steps):
        raise checking.refused(run.ledger, "steps", "none has a loss", fix)
    return told


def _sources(run: Run, made: dict[str, tuple[str, str]]) -> tuple[Source, ...]:
    files = (
        run.manifest,
        run.recipe,
        run.plan,
        run.metrics,
        run.evaluation,
        run.evaluated_items,
        run.ledger,
        run.router,
    )
    there = [(run.named(file), atomic.sha256(file)) for file in files if file.is_file()]
    return tuple(
        Source(name, digest, made[name][1] if name in made and made[name][0] == digest else "")
        for name, digest in there
    )
