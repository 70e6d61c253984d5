"""Reads the rows of a recipe, without rendering them: for plans, for checks, and for questions about held-out rows."""

from __future__ import annotations

import itertools
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.data.assigning import HELD_OUT, Candidates, assign
from finetune.data.files import LeftOut, no_rows
from finetune.data.filling import hashed, reading_of, rows_in
from finetune.data.messages import Row
from finetune.data.problems import Problems
from finetune.data.rendering import rounds
from finetune.data.shapes import Columns
from finetune.data.sources import Sourced, shown_name, to_hold_out, to_learn
from finetune.data.split import Mark
from finetune.errors import DataError, Problem
from finetune.recipe import Recipe


@dataclass(frozen=True)
class Read:
    """What a first look at all rows found; a second look gives the rows themselves."""

    files: tuple[Sourced, ...]
    times: list[array[int]]
    """For each file and row how often it is learnt in an epoch, or HELD_OUT."""
    num_examples: list[Sequence[int]]
    """For each file and row."""
    shapes: list[Counter[str]]
    left_out: Counter[str]
    """Why a record is not learnt, by its own word -> records."""
    unread: Counter[str]
    """Column that means nothing here -> rows that have it."""
    problems: Problems
    wrong: list[int]
    """For each file, how many records cannot be learnt from."""

    def rows(self) -> Iterator[tuple[Row, int]]:
        """Yields each row again, and how often it is learnt, or HELD_OUT."""
        for file, times in zip(self.files, self.times, strict=True):
            good = (row for row in rows_in(file.reading) if isinstance(row, Row))
            for often, row in zip(times, good, strict=False):  # no row further than the first look came
                yield row, often

    def count(self, learnt: bool) -> tuple[int, int]:
        """Counts the rows of a side, and the examples that they become in an epoch."""
        pairs = [
            (max(0, n) if learnt else int(n == HELD_OUT), each)
            for times, made in zip(self.times, self.num_examples, strict=True)
            for n, each in zip(times, made, strict=True)
        ]
        return sum(n > 0 for n, _ in pairs), sum(n * each for n, each in pairs)


def read(recipe: Recipe, tell: Callable[[Problem], None] | None = None) -> Read:
    """Looks at every row of a recipe once, and decides its side.

    Args:
        recipe: whose sources.
        tell: takes each thing that is wrong with a row, all of them.

    Raises:
        DataError: a file is not there, or nothing that can be read. What is wrong with rows is returned.
        OutsideError: a data set of the Hub cannot be downloaded.
    """
    unreadable = list[Problem]()
    files = (*to_learn(recipe, unreadable if tell else None), *to_hold_out(recipe))
    problems, left_out, shapes, candidates = Problems(), Counter[str](), list[Counter[str]](), list[Candidates]()
    wrong, unread = list[int](), Counter[str]()
    for problem in unreadable:  # only where there is somebody to tell
        _note(problem, problems, tell)
    for file in files:
        marks, made, seen = list[Mark](), array("i"), Counter[str]()
        before = problems.kinds.total()
        for found in _found_in(file, told_all=tell is not None):
            if isinstance(found, Row):
                marks.append(Mark(bytes.fromhex(found.fingerprint), found.likeness, hashed(found.group)))
                made.append(_num_examples(recipe, found))
                seen[found.shape] += 1
                unread.update(found.unread)
            elif isinstance(found, LeftOut):
                left_out[found.why] += 1
            else:
                _note(found, problems, tell)
        shapes.append(seen)
        wrong.append(problems.kinds.total() - before)
        candidates.append(Candidates(file.source, marks, made, file.held_out))
    times = assign(candidates, recipe.data.eval)
    num_examples = [each.num_examples for each in candidates]
    return Read(files, times, num_examples, shapes, left_out, unread, problems, wrong)


def _found_in(file: Sourced, told_all: bool) -> Iterator[Row | Problem | LeftOut]:
    """Yields what is in a file; what ends it early is yielded too where everything is to be told, else raised."""
    try:
        yield from rows_in(file.reading)
    except DataError as error:
        if not told_all:
            raise
        yield from error.problems


def _note(problem: Problem, problems: Problems, tell: Callable[[Problem], None] | None) -> None:
    problems.add([problem])
    if tell:
        tell(problem)


def read_split(recipe: Recipe) -> tuple[list[Row], list[Row]]:
    """Reads the rows to learn and the rows to hold out, each once, into memory.

    Raises:
        DataError: a file or a row cannot be learnt from, or nothing is left to learn or to hold out.
    """
    found = read(recipe)
    check_sides(recipe, found.problems, found.times)
    sides: tuple[list[Row], list[Row]] = ([], [])
    for row, times in found.rows():
        if times:
            sides[times == HELD_OUT].append(row)
    return sides


def read_held_out(recipe: Recipe) -> Iterator[Row]:
    """Yields the rows that are held out, one at a time.

    Raises:
        DataError: as `read_split` does.
    """
    found = read(recipe)
    check_sides(recipe, found.problems, found.times)
    return (row for row, times in found.rows() if times == HELD_OUT)


def read_rows(file: Path, columns: Columns | None = None) -> list[Row]:
    """Reads every row of a file.

    Args:
        file: of rows.
        columns: which columns are what, as `data.columns` says it.

    Raises:
        DataError: the file cannot be read, or rows of it cannot be learnt from.
    """
    problems, rows = Problems(), list[Row]()
    shown = shown_name(file)
    for found in rows_in(reading_of(file, shown, columns, None)):
        if isinstance(found, Row):
            rows.append(found)
        elif isinstance(found, Problem):
            problems.add([found])
    problems.check(len(rows))
    if not rows:
        raise no_rows(f"{shown}:1")
    return rows


def check_sides(recipe: Recipe, problems: Problems, times: list[array[int]]) -> None:
    """Makes sure that there is something to learn and, where a share is wanted, something to hold out.

    Raises:
        DataError: there is not, or a row cannot be learnt from.
    """
    problems.check(sum(map(len, times)))
    learnt = sum(n > 0 for n in itertools.chain(*times))
    held = sum(n == HELD_OUT for n in itertools.chain(*times))
    if not any(times):
        raise no_rows(f"{recipe.where('data.train').partition('  ')[0].rpartition(':')[0] or 'the recipe'}:1")
    if not isinstance(recipe.data.eval, Path) and recipe.data.eval and not held:
        what = "all rows are the same, or of one group"
        raise DataError(
            "there is nothing to hold out",
            where=recipe.where("data.eval"),
            why=f"{what}; without held-out rows nothing is proved",
            fix=recipe.line("data.eval", 0),
        )
    if not learnt:
        why = "all rows are held out, or none of them was drawn for a weight or a share"
        fix = recipe.line("data.eval", 0)
        raise DataError("there is nothing to learn", where=recipe.where("data.train"), why=why, fix=fix)


def _num_examples(recipe: Recipe, row: Row) -> int:
    """Counts the examples that Qwen's template makes of a row."""
    if row.text or recipe.data.preserve_thinking:
        return 1
    said = {i for i, m in enumerate(row.messages) if m["role"] == "assistant"} - row.silent
    return sum(any(start <= i < end for i in said) for end, start in rounds(row.messages, row.learn_from))
