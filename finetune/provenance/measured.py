"""What was measured of a run, as others may read it: the shape of its files, no path, and no answer of a few rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, FiniteFloat, NonNegativeInt, ValidationError

from finetune.provenance.public import last_part, without_paths

COMMONEST = "the commonest answer"
"""What stands for a label that few rows share: it is the answer of somebody's row."""

LEAST_SHARED = 5
"""Rows that share a label which is told."""


class Part(BaseModel):
    """Something that stands in a file of figures, and may hold more than is read here."""

    model_config = ConfigDict(strict=True, extra="allow")


class Score(Part):
    """A figure; its interval is None where none was computed."""

    value: FiniteFloat
    low: FiniteFloat | None
    high: FiniteFloat | None


class Pair(Part):
    """Two sides compared."""

    one: str
    other: str
    difference: Score
    p: FiniteFloat | None
    p_holm: FiniteFloat | None = None
    verdict: str
    sees: FiniteFloat | None


class Majority(Part):
    """What always saying one thing would score."""

    label: str
    share: FiniteFloat


class OfHub(Part):
    """A data set of the Hub."""

    dataset: str
    config: str


class Task(Part):
    """What was asked, and what came out."""

    name: str
    kind: str
    set: str
    unit: str
    better: str
    items: NonNegativeInt
    scores: dict[str, Score]
    pairs: list[Pair]
    majority: Majority | None = None
    hub: OfHub | None = None
    few_shot: list[Any] = []
    harness: str = ""
    file: str = ""


class Sampling(Part):
    """How answers were drawn."""

    max_new_tokens: NonNegativeInt


class Side(Part):
    """Who was asked."""

    engine: str = ""
    sha256: str = ""
    thinking: bool = False
    sampling: Sampling | None = None


class Gate(Part):
    """Rules, and which failed."""

    rules: list[str]
    failed: list[str]
    not_asked: list[str] = []


class Evaluation(Part):
    """evaluation.json."""

    made: str = ""
    sides: dict[str, Side]
    tasks: list[Task]
    gate: Gate
    notes: list[str]


class Step(Part):
    """A form of the model in the ledger."""

    name: str
    weights: str
    loss: Score | None = None
    kept: Score | None = None


class Examples(Part):
    """How many the ledger scored."""

    scored: NonNegativeInt
    learnt: NonNegativeInt


class Ledger(Part):
    """ledger.json."""

    steps: list[Step]
    examples: Examples
    unit: str
    intervals: str
    advice: list[str]


def damage(value: Any, shape: type[Part]) -> str:
    """Says what in a file is not as a stage writes it; nothing if all is."""
    try:
        shape.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return ""


def public_evaluation(evaluation: dict[str, Any], run: Path) -> dict[str, Any]:
    """Gives an evaluation as it is told to others.

    Args:
        evaluation: as it stands in evaluation.json.
        run: the run's folder.
    """
    names = _names(evaluation["sides"])
    labels = [task["majority"]["label"] for task in evaluation["tasks"] if _is_of_few(task)]
    notes = [_without_labels(note, labels) for note in evaluation["notes"]]
    tasks = [
        {**task, "majority": {**task["majority"], "label": COMMONEST}} if _is_of_few(task) else task
        for task in evaluation["tasks"]
    ]
    told: dict[str, Any] = without_paths(_renamed({**evaluation, "tasks": tasks, "notes": notes}, names), run.resolve())
    return told


def numbered(name: str, taken: set[str]) -> str:
    """Gives a name that is not taken: with a number before its ending, if it has to be."""
    stem, dot, ending = name.rpartition(".")
    stem, ending = (stem, dot + ending) if stem else (name, "")
    others = (f"{stem}-{number}{ending}" for number in range(2, len(taken) + 3))
    return next(each for each in (name, *others) if each not in taken)


def _names(sides: dict[str, Any]) -> dict[str, str]:
    """Gives each side that is named by a path elsewhere a name of its own, the longest path first."""
    away = [side for side in sides if last_part(side) != side and Path(side).is_absolute()]
    taken = set(sides) - set(away)
    names: dict[str, str] = {}
    for side in away:
        names[side] = numbered(last_part(side), taken)
        taken.add(names[side])
    return dict(sorted(names.items(), key=lambda each: -len(each[0])))


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {_renamed(key, names): each if key == "system" else _renamed(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [_renamed(each, names) for each in value]
    if isinstance(value, str):
        for name, told in names.items():
            value = value.replace(name, told)
    return value


def _is_of_few(task: dict[str, Any]) -> bool:
    majority: dict[str, Any] | None = task.get("majority")
    return majority is not None and round(majority["share"] * task["items"]) < LEAST_SHARED


def _without_labels(note: str, labels: list[str]) -> str:
    for label in labels:
        note = note.replace(f"always saying {label!r}", f"always saying {COMMONEST}")
    return note
