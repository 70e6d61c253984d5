"""Which examples are shown: by number, by the row they came from, or the worst of a kind."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune.data import Dataset, Example
from finetune.errors import RecipeError

Side = Literal["train", "held-out", "left-out"]
Kind = Literal["truncated", "longest", "least-learnt"]

SIDES: tuple[Side, ...] = ("train", "held-out", "left-out")
LEFT_OUT: Side = "left-out"

PLACE = re.compile(r"(.+):(?:row )?(\d+)(?: (\S+))?")
"""A place as errors tell it: `rows.jsonl:12`, `rows.xlsx:row 12`, `rows.json:2 questions[3]`."""

IN_WORDS = {"train": "to learn", "held-out": "held out", "left-out": "left out as too long"}


@dataclass(frozen=True)
class Shown:
    """An example, and where it stands in the Dataset that is trained on."""

    example: Example
    side: Side
    number: int
    """Among the examples of its side, from 1."""

    @property
    def is_left_out(self) -> bool:
        """Whether it was too long, and nobody sees it."""
        return self.side == LEFT_OUT

    @property
    def num_tokens(self) -> int:
        """All tokens, those too that were cut off."""
        return len(self.example) + len(self.example.cut)

    @property
    def num_cut(self) -> int:
        """Tokens that nobody sees."""
        return self.num_tokens if self.is_left_out else len(self.example.cut)

    @property
    def num_learnt(self) -> int:
        """Tokens that are learnt, or that the held-out loss is taken of."""
        return 0 if self.is_left_out else sum(self.example.learnt)


def examples_of(dataset: Dataset, side: Side) -> Sequence[Example]:
    """Gives the examples of a side."""
    if side == LEFT_OUT:
        return dataset.left_out
    return dataset.train if side == "train" else dataset.held_out


def everything(dataset: Dataset, sides: Sequence[Side]) -> Iterator[Shown]:
    """Yields every example of these sides, in the order of the Dataset."""
    for side in sides:
        for number, example in enumerate(examples_of(dataset, side), 1):
            yield Shown(example, side, number)


def by_row(dataset: Dataset, side: Side, row: int, count: int) -> list[Shown]:
    """Gives the examples of a side from this number on.

    Raises:
        RecipeError: there are not so many.
    """
    examples = examples_of(dataset, side)
    if not examples:
        raise RecipeError(f"nothing is {IN_WORDS[side]}", where=f"--side {side}", fix="--side train")
    if row > len(examples):
        why = f"{len(examples):,} examples are {IN_WORDS[side]}"
        raise RecipeError(f"there is no example {row:,}", where=f"--row {row}", why=why, fix=f"--row {len(examples)}")
    return [Shown(examples[at], side, at + 1) for at in range(row - 1, min(row - 1 + count, len(examples)))]


def by_place(dataset: Dataset, sides: Sequence[Side], place: str, count: int | None) -> list[Shown]:
    """Finds the examples of a row, on whatever side they stand.

    Args:
        dataset: what is trained on.
        sides: where to look.
        place: `file:line`; the file as the recipe or the shell names it, or its last name alone.
        count: the most that are given; None for all.

    Raises:
        RecipeError: it is not a place, or no example came from there.
    """
    named = PLACE.fullmatch(place)
    if named is None:
        first = shlex.quote(next(everything(dataset, SIDES)).example.place)
        why = "a place is a file and a line"
        raise RecipeError("this names no row", where=f"--place {place}", why=why, fix=f"--place {first}")
    file, line, part = named[1], int(named[2]), named[3] or ""
    found = [shown for shown in everything(dataset, sides) if _is_at(shown.example.place, file, line, part)]
    if not found:
        raise _nothing_at(dataset, sides, place, file, line)
    return found[:count]


def worst(dataset: Dataset, sides: Sequence[Side], kind: Kind, count: int) -> list[Shown]:
    """Gives the worst examples of a kind, the worst first; fewer, or none, where there are not so many."""
    every = everything(dataset, sides)
    if kind == "truncated":
        return sorted((s for s in every if s.num_cut), key=lambda s: (not s.is_left_out, -s.num_cut))[:count]
    if kind == "longest":
        return sorted(every, key=lambda s: -s.num_tokens)[:count]
    return sorted((s for s in every if not s.is_left_out), key=lambda s: s.num_learnt / len(s.example))[:count]


def _split(place: str) -> tuple[str, int, str]:
    named = PLACE.fullmatch(place)
    assert named is not None, place
    return named[1], int(named[2]), named[3] or ""


def _is_at(place: str, file: str, line: int, part: str = "") -> bool:
    at, number, of = _split(place)
    return number == line and _is_same(at, file) and part in ("", of)


def _is_same(at: str, file: str) -> bool:
    return at == file or Path(at).name == file or Path(at).resolve() == Path(file).resolve()


def _nothing_at(dataset: Dataset, sides: Sequence[Side], place: str, file: str, line: int) -> RecipeError:
    """Says which row is nearest, or which files there are."""
    what, where = "no example comes from this row", f"--place {place}"
    others = [
        s for s in everything(dataset, [s for s in SIDES if s not in sides]) if _is_at(s.example.place, file, line)
    ]
    if others:
        why = f"it is {IN_WORDS[others[0].side]}"
        return RecipeError(what, where=where, why=why, fix=f"--place {place} --side {others[0].side}")
    places = [_split(shown.example.place) for shown in everything(dataset, sides)]
    same = [at for at in places if _is_same(at[0], file)]
    if not same:
        files = ", ".join(dict.fromkeys(at for at, *_ in places))
        return RecipeError(what, where=where, why=f"the rows are of {files}", fix=f"--place {places[0][0]}:{line}")
    near = min(same, key=lambda at: abs(at[1] - line))
    why = "the line is blank, not there, or its example was too long"
    return RecipeError(what, where=where, why=why, fix=f"--place {near[0]}:{near[1]}")
