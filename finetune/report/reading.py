"""Everything that a report is made of: files of the run that tell something, each as the manifest proved it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune import atomic
from finetune.errors import ArtifactError
from finetune.plan import Plan, read_plan
from finetune.recipe import Recipe, load
from finetune.report.evaluation import Evaluation, Flips, read_evaluation, read_flips, repeated
from finetune.run import Run, manifest, metrics, outputs


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
    ledger: dict[str, Any] | None
    router: dict[str, Any] | None
    sources: tuple[Source, ...]

    def last(self, stage: str) -> dict[str, Any] | None:
        """The newest entry of a stage, if it finished."""
        return outputs.last(self.manifest, stage)


def read_evidence(run: Run) -> Evidence:
    """Reads a run.

    Raises:
        ArtifactError: a file is damaged, or is not the one that the manifest proved.
    """
    told = manifest.read_begun(run.manifest)
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
        plan=read_plan(run.plan),
        manifest=told,
        records=metrics.read(run.metrics),
        evaluation=evaluation,
        flips=flips,
        repeated=repeated(evaluation, flips) if evaluation else {},
        ledger=_json(run.ledger, "steps", ledger),
        router=_json(run.router, "layers", "finetune train writes it: train again"),
        sources=_sources(run, made),
    )


def _json(file: Path, key: str, fix: str) -> dict[str, Any] | None:
    """Reads one of our JSON files; None where it is not there.

    Raises:
        ArtifactError: it is not JSON, or lacks what it is about.
    """
    if not file.is_file():
        return None
    try:
        value = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{file.name} cannot be read", where=str(file), why=str(error), fix=fix) from error
    if not isinstance(value, dict) or key not in value:
        raise ArtifactError(f"{file.name} cannot be read", where=str(file), why=f"it lacks {key}", fix=fix)
    return value


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
