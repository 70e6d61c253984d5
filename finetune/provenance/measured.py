"""What was measured of a run, as others may read it: without a path, and without an answer that few rows share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune.provenance.public import last_part, numbered, without_paths

COMMONEST = "the commonest answer"
"""What stands for a label that few rows share: it is the answer of somebody's row."""

LEAST_SHARED = 5
"""Rows that share a label which is told."""


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
