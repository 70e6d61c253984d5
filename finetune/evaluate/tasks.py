"""Which tasks an evaluation has: those of the recipe, or those that the command line names."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import RecipeError
from finetune.recipe import HarnessTask, Recipe, Task
from finetune.recipe.gate import SCORES

HARNESS = "lm_eval"
"""What its tasks are called on the command line, before a colon, and what kind of task they are."""

Wished = Task | HarnessTask


@dataclass(frozen=True)
class Subject:
    """What a rule of the gate can speak of."""

    name: str
    kind: str
    set: str


def wished(recipe: Recipe, names: Sequence[str]) -> tuple[Wished, ...] | None:
    """Lists the tasks that are wished for, in the recipe or by their names; None leaves it to the rows.

    Args:
        recipe: of the run.
        names: of tasks of the recipe, scores of the held-out rows, or `lm_eval:` and the name of a task there.

    Raises:
        RecipeError: there is no such task.
    """
    told = [_task(each) for each in recipe.evaluate.tasks] if recipe.evaluate.tasks else None
    if not names:
        return tuple(told) if told else None
    known = {name_of(each): each for each in told or ()}
    found: list[Wished] = []
    for name in names:
        named = [each for key, each in known.items() if key == name]
        scored = [each for each in known.values() if isinstance(each, Task) and each.score == name]
        if not (named or scored):
            named = [_word(name, known)]
        found += [each for each in (named or scored) if each not in found]
    return tuple(found)


def name_of(task: Wished) -> str:
    """Names a task."""
    if isinstance(task, HarnessTask):
        return task.name or Path(task.lm_eval).stem
    return task.name or f"{task.file.stem if task.file else 'held_out'} {task.score}"


def subject_of(task: Wished) -> Subject:
    """Tells how a rule can speak of a task."""
    return Subject(name_of(task), HARNESS if isinstance(task, HarnessTask) else task.score, task.set)


def _task(told: Wished | str) -> Wished:
    """Writes a word out as the task that it stands for."""
    return Task(score=told) if isinstance(told, str) else told  # type: ignore[arg-type]


def _word(name: str, known: Mapping[str, Wished]) -> Wished:
    """Reads a task from the command line that the recipe does not name.

    Raises:
        RecipeError: it is no score either.
    """
    without = [score for score in SCORES if score != "regex"]
    if name in without:
        return Task(score=name)
    if name.startswith(f"{HARNESS}:") and name != f"{HARNESS}:":
        return HarnessTask(lm_eval=name.removeprefix(f"{HARNESS}:"))
    choices = [*known, *without]
    why = f"there are {', '.join(choices)}, and those of lm-evaluation-harness, such as {HARNESS}:gsm8k"
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.0)
    raise RecipeError(
        f"there is no task {name}", where=f"--tasks {name!a:.80}", why=why, fix=f"--tasks {shlex.quote(close[0])}"
    )
