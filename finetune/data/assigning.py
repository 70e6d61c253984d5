"""Decides of each row whether it is held out, and how often it is learnt in an epoch."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.data.split import Mark, drawn_share, held_out
from finetune.recipe import Source

HELD_OUT = -1
"""In place of how often a row is learnt."""


@dataclass(frozen=True)
class Candidates:
    """The rows of one file, as far as their side follows from them."""

    source: Source
    marks: Sequence[Mark]
    num_examples: Sequence[int]
    """Of each row."""
    whole_held_out: bool = False
    """Whether the file is `data.eval`."""


def assign(files: Sequence[Candidates], eval: Path | float) -> list[array[int]]:
    """Decides of each row of each file how often it is learnt: HELD_OUT, 0, once or oftener.

    Args:
        files: all that is read.
        eval: of the recipe: a share of rows to hold out, of those sources that are not mixed in by a share of their
            own; a path holds out none of them.
    """
    times = [array("i", [HELD_OUT if file.whole_held_out else 1]) * len(file.marks) for file in files]
    own = [n for n, file in enumerate(files) if not file.whole_held_out and file.source.share is None]
    for n in own:
        _weigh(files[n], times[n])
    if not isinstance(eval, Path) and eval:
        drawn = [(n, i) for n in own for i, often in enumerate(times[n]) if often]
        held = held_out([files[n].marks[i] for n, i in drawn], eval)
        for (n, i), is_held in zip(drawn, held, strict=True):
            times[n][i] = HELD_OUT if is_held else times[n][i]
    _mix_in(files, times, own)
    return times


def _weigh(file: Candidates, times: array[int]) -> None:
    """Repeats rows, or leaves a part of them out, as the source's weight says; what is left out is not held out."""
    whole, part = divmod(file.source.weight, 1)
    if file.source.weight == 1:
        return
    for i, mark in enumerate(file.marks):
        times[i] = int(whole) + (drawn_share(mark.fingerprint) < part)


def _mix_in(files: Sequence[Candidates], times: list[array[int]], own: Sequence[int]) -> None:
    """Takes of each source with a share as many rows as make it up; none that is like a row held out."""
    mixed = [n for n, file in enumerate(files) if not file.whole_held_out and file.source.share is not None]
    if not mixed:
        return
    apart = [m for f, t in zip(files, times, strict=True) for m, n in zip(f.marks, t, strict=True) if n < 0]
    held, groups = {mark.likeness for mark in apart}, {mark.group for mark in apart if mark.group}
    learnt = sum(max(0, n) * each for o in own for n, each in zip(times[o], files[o].num_examples, strict=True))
    shares = {id(files[n].source): files[n].source.share or 0.0 for n in mixed}
    for source, share in shares.items():
        wanted = round(share * learnt / (1 - sum(shares.values())))  # below 1: sources.to_learn
        rows = [
            (drawn_share(mark.fingerprint), n, i)
            for n in mixed
            if id(files[n].source) == source
            for i, mark in enumerate(files[n].marks)
        ]
        for _, n, i in sorted(rows):
            mark = files[n].marks[i]
            taken = wanted > 0 and mark.likeness not in held and mark.group not in groups
            times[n][i] = int(taken)
            wanted -= files[n].num_examples[i] * taken
