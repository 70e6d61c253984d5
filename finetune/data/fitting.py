"""Chooses the examples of an epoch from the stores: what fits whole, what is cut at a turn, what is too long."""

from __future__ import annotations

import itertools
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from finetune.data.assigning import HELD_OUT
from finetune.data.examples import Examples, Stores
from finetune.data.problems import SHOWN_PROBLEMS
from finetune.data.store import TEXT, Store
from finetune.errors import DataError, Problem
from finetune.recipe import Recipe


@dataclass(frozen=True)
class Fitted:
    """The examples of both sides, and what became of those that are too long."""

    train: Examples
    held_out: Examples
    left_out: Examples
    fate: Counter[str]
    """`dropped`, `truncated`, `stretches` -> examples."""


def fit(recipe: Recipe, stores: Stores, times: Sequence[array[int]]) -> Fitted:
    """Lays out the examples of an epoch.

    Raises:
        DataError: an example is too long where that is an error, or none is short enough.
    """
    sides = {True: Examples(stores), False: Examples(stores)}
    left_out, fate, wanted = Examples(stores), Counter[str](), Counter[bool]()
    limit = recipe.data.max_length
    for which, (store, _) in enumerate(stores):
        for number in range(store.num_examples):
            row = store.row_of(number)
            if not (often := times[which][row]):
                continue
            learnt, (begin, end) = often != HELD_OUT, store.span(number)
            wanted[learnt] += 1
            stretches = _stretches(recipe, store, number, limit)
            if not stretches:
                fate["dropped"] += 1
                left_out.choose(which, number, 0, end - begin)
            elif store.flags(row) & TEXT:
                fate["stretches"] += len(stretches) - 1
            elif stretches[-1][1] < end - begin:
                fate["truncated"] += 1
            for _ in range(max(1, often)):
                for start, stop in stretches:
                    sides[learnt].choose(which, number, start, stop)
    if recipe.data.too_long == "error" and left_out:
        raise _too_long(recipe, left_out)
    for learnt, what in ((True, "no example is left to learn"), (False, "no held-out example is left")):
        if wanted[learnt] and not sides[learnt]:
            raise _none_left(recipe, what, left_out, wanted[learnt])
    return Fitted(sides[True], sides[False], left_out, fate)


def cut_at_turn(learnt: bytes, limit: int) -> int:
    """Gives the length of the learnt turns that fit whole, or 0; where the mask falls from learnt to not, one ends."""
    return learnt[: limit + 1].rfind(b"\1\0") + 1


def _stretches(recipe: Recipe, store: Store, number: int, limit: int) -> list[tuple[int, int]]:
    """Gives (start, stop) of what is taken of an example: all of it, its first turns, or, of a text, even parts."""
    begin, end = store.span(number)
    length = end - begin
    if length <= limit:
        return [(0, length)]
    if store.flags(store.row_of(number)) & TEXT:
        parts = -(-length // limit)
        borders = [length * i // parts for i in range(parts + 1)]
        return list(itertools.pairwise(borders))
    if recipe.data.too_long == "truncate":
        stop = cut_at_turn(bytes(store.parts["learnt.u8"][begin : begin + limit + 1]), limit)
        return [(0, stop)] if stop else []
    return []


def _too_long(recipe: Recipe, examples: Examples) -> DataError:
    lengths, limit = examples.lengths, recipe.data.max_length
    fix = recipe.line("data.max_length", max(lengths))
    why = f"tokens; {recipe.where('data.max_length')} allows {limit:,}"
    problems = [
        Problem("the row is too long", examples.place(i), f"{lengths[i]:,} {why}", fix)
        for i in range(min(len(examples), SHOWN_PROBLEMS))
    ]
    if more := len(examples) - len(problems):
        problems.append(Problem(f"and {more:,} more rows are too long"))
    error = DataError.of(problems)
    assert isinstance(error, DataError)
    return error


def _none_left(recipe: Recipe, what: str, left_out: Examples, number: int) -> DataError:
    lengths = left_out.lengths
    why = f"all {number:,} are longer than {recipe.data.max_length:,} tokens: {min(lengths):,} to {max(lengths):,}"
    fix = recipe.line("data.max_length", max(lengths))
    return DataError(what, where=recipe.where("data.max_length"), why=why, fix=fix)
