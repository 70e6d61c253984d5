"""What `finetune evaluate` left in the run, read back: tasks, differences, and the answers that changed sides."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from finetune.recipe import failed_rules
from finetune.report import checking
from finetune.statistics import Better, Interval, Verdict

FORMAT = 1
BASE, TUNED = "base", "tuned"

HARNESS = "lm_eval"
"""The kind of a task of lm-evaluation-harness, whose metric may be any number."""

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]

MOST_FLIPS = 12
"""Of a task and a direction, that are shown whole; all of them are counted."""


@dataclass(frozen=True)
class Side:
    """One of the models that answered, and how it was asked."""

    what: str
    engine: str = ""
    template: str = ""
    tokenizer: str = ""
    thinking: bool = False
    preserve_thinking: bool = False
    system: str | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    sha256: str | None = None


@dataclass(frozen=True)
class Pair:
    """One model compared with another on the same items."""

    one: str
    other: str
    difference: Interval
    """The other's figure minus the one's."""
    verdict: Verdict
    p: Share | None = None
    p_holm: Share | None = None
    """The same as it is among the other tasks."""
    sees: Annotated[float, Field(ge=0)] | None = None
    """The smallest change that this set shows."""


@dataclass(frozen=True)
class Flipped:
    """How many items changed sides from base to tuned."""

    gained: Count
    lost: Count


@dataclass(frozen=True)
class Majority:
    """The answer that is expected most often, and how often."""

    label: str
    share: Share
    """What always giving it would score."""


@dataclass(frozen=True)
class Task:
    """What was asked, and what came out."""

    name: str
    kind: str
    set: Literal["domain", "regression"]
    unit: str
    better: Better
    items: Count
    scores: dict[str, Interval]
    pairs: tuple[Pair, ...]
    flips: Flipped | None = None
    data_sha256: str = ""
    majority: Majority | None = None
    harness: str = ""
    """Name and version of the harness that the task is of; empty for a task of our own."""
    metric: str = ""
    few_shot: tuple[int, ...] = ()
    """Examples before the question; several numbers where the tasks of a group differ."""
    versions: dict[str, str] = field(default_factory=dict)
    """Task of the harness -> its version."""
    hub: dict[str, str] | None = None
    """The data set that was asked whole."""

    @property
    def main(self) -> Pair | None:
        """Base against tuned."""
        return next((pair for pair in self.pairs if (pair.one, pair.other) == (BASE, TUNED)), None)

    @property
    def is_share(self) -> bool:
        """Whether its figures are shares of items, told in percent."""
        counted = self.flips is not None if self.kind == HARNESS else self.kind != "loss"
        return counted and all(0 <= score.value <= 1 for score in self.scores.values())

    @property
    def base_has_nothing(self) -> bool:
        """Whether the base answers no item right, so that no tuning can do worse."""
        worst = 0 if self.better == "higher" else 1
        return self.is_share and BASE in self.scores and self.scores[BASE].value == worst


@dataclass(frozen=True)
class Gate:
    """What was demanded, and what of it did not hold."""

    rules: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    """Rules, each with the figures that say so, if they are told; a rule may fail on several tasks."""
    not_asked: tuple[str, ...] = ()
    """Rules of the run's own recipe that this evaluation did not judge."""

    @property
    def broken(self) -> tuple[str, ...]:
        """The rules among them."""
        return tuple(failed_rules(self.rules, self.failed))


@dataclass(frozen=True)
class Evaluation:
    """All of evaluation.json that is shown."""

    format: Literal[1]
    run: str
    made: str
    sides: dict[str, Side]
    tasks: tuple[Task, ...]
    gate: Gate = field(default_factory=Gate)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What one side said to an item."""

    answer: str | None = None
    score: float | None = None
    loss: float | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class Item:
    """One row of items.jsonl."""

    task: str
    item: int | str
    place: str
    sides: dict[str, Answer]
    prompt: Any = ""
    expected: Any = None


@dataclass
class Flips:
    """Items of a task that changed sides: how many, and the first of them."""

    gained: int = 0
    lost: int = 0
    shown_gained: list[Item] = field(default_factory=list)
    shown_lost: list[Item] = field(default_factory=list)
    digest: str = ""
    """Of the answers and scores of all items, in their order."""


_EVALUATION, _ITEM = TypeAdapter(Evaluation), TypeAdapter(Item)


def read_evaluation(file: Path, fix: str) -> Evaluation:
    """Reads evaluation.json.

    Args:
        file: of the run.
        fix: the command that makes it.

    Raises:
        ArtifactError: it is not one; it names the first field that is not as it should be.
    """
    what = "the evaluation cannot be read"
    told = checking.read(file, _EVALUATION, fix, what)
    for number, task in enumerate(told.tasks):
        for place, pair in enumerate(task.pairs):
            if absent := {pair.one, pair.other} - task.scores.keys():
                why = f"it compares {min(absent)}, of which there is no score"
                raise checking.refused(file, f"tasks.{number}.pairs.{place}", why, fix, what)
    return told


def read_flips(file: Path, fix: str) -> dict[str, Flips]:
    """Finds, task by task, the items that base and tuned do not answer alike: one right, the other wrong.

    Args:
        file: items.jsonl, read line by line.
        fix: the command that makes it.

    Raises:
        ArtifactError: a line is not an item.
    """
    found: dict[str, Flips] = {}
    for item in _items(file, fix):
        flips = found.setdefault(item.task, Flips())
        flips.digest = _digest(flips.digest, item)
        before, after = (item.sides[side].score if side in item.sides else None for side in (BASE, TUNED))
        if (before, after) not in ((0, 1), (1, 0)) or any(side.score is None for side in item.sides.values()):
            continue
        if after == 1:
            flips.gained += 1
            flips.shown_gained += [item] if flips.gained <= MOST_FLIPS else []
        else:
            flips.lost += 1
            flips.shown_lost += [item] if flips.lost <= MOST_FLIPS else []
    return found


def _digest(before: str, item: Item) -> str:
    told = [item.item, {side: [each.answer, each.score, each.loss] for side, each in item.sides.items()}]
    return hashlib.sha256(f"{before}{json.dumps(told)}".encode()).hexdigest()


def repeated(evaluation: Evaluation, flips: Mapping[str, Flips]) -> dict[str, str]:
    """Finds the tasks that count the answers of an earlier one again: same items, and every side right on the same.

    Args:
        evaluation: of the run.
        flips: of its tasks, as `read_flips` gives them.

    Returns:
        Name -> that of the earlier task.
    """
    first: dict[Any, str] = {}
    found = {}
    for task in evaluation.tasks:
        if not task.data_sha256 or not task.scores:
            continue
        answers = flips[task.name].digest if task.name in flips else ""
        key = task.set, task.data_sha256, task.better, tuple(sorted(task.scores.items())), answers
        if first.setdefault(key, task.name) != task.name:
            found[task.name] = first[key]
    return found


def words(value: Any) -> str:
    """Gives a prompt or an expected answer as text: turns one under the other, what is neither as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(turn, dict) and turn.keys() >= {"role", "content"} for turn in value):
        return "\n\n".join(f"{turn['role']}: {words(turn['content'])}" for turn in value)
    return json.dumps(value, indent=1, ensure_ascii=False)


def _items(file: Path, fix: str) -> Iterator[Item]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield _ITEM.validate_json(line)
            except ValidationError as error:
                what = "an item of the evaluation cannot be read"
                raise checking.invalid(f"{file}:{number}", what, error, fix) from None
