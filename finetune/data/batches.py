"""Which examples each optimizer step has, and how they lie in it: like lengths together, or end to end in packs.

Which a step has follows from the seed alone, never from how they lie: a step's loss is the mean over all of its learnt
tokens, so that it does not matter with whom an example shares a micro-batch.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from math import ceil

from finetune.recipe import Recipe


def shuffled(count: int, *, seed: int, epoch: int) -> list[int]:
    """Shuffles the numbers of examples: as good as chance, and the same on every machine and with every package.

    Args:
        count: of the examples.
        seed: of the run.
        epoch: from 0; each has its own order.
    """
    start = blake2b(f"{seed} {epoch}".encode(), digest_size=8)

    def drawn(row: int) -> bytes:
        own = start.copy()
        own.update(b" %d" % row)
        return own.digest()

    return sorted(range(count), key=drawn)


def num_steps(recipe: Recipe, count: int) -> tuple[int, int]:
    """Counts the optimizer steps of one epoch of so many examples, and of the run."""
    per_epoch = ceil(count / recipe.train.batch_size)
    return per_epoch, recipe.train.max_steps or ceil(recipe.train.epochs * per_epoch)


def rows_of_step(count: int, step: int, *, batch_size: int, seed: int) -> list[int]:
    """Gives the numbers of the examples that an optimizer step learns.

    Args:
        count: of the examples.
        step: from 1, over all epochs; the last of each may have fewer.
        batch_size: examples of one.
        seed: of the run.
    """
    epoch, at = divmod(step - 1, -(-count // batch_size))
    return shuffled(count, seed=seed, epoch=epoch)[at * batch_size : (at + 1) * batch_size]


def longest_first(rows: Iterable[int], lengths: Sequence[int]) -> list[int]:
    """Sorts the rows of a step by length, so that neighbours pad each other little; equals keep their order.

    Args:
        rows: numbers of examples.
        lengths: of all examples, in tokens.
    """
    return sorted(rows, key=lambda row: -lengths[row])


def packs(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Lays whole examples into as few packs as best-fit decreasing finds, at most 11/9 of the fewest.

    The longest comes first, and each goes where it leaves least room; the same lengths always give the same packs.

    Args:
        lengths: of the examples, in tokens.
        limit: tokens of a pack.

    Returns:
        The places in `lengths` that lie in each pack, longest first.

    Raises:
        ValueError: an example alone is longer than a pack.
    """
    found: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, pack), sorted
    for place in longest_first(range(len(lengths)), lengths):
        if lengths[place] > limit:
            raise ValueError(f"an example of {lengths[place]} tokens does not fit into a pack of {limit}")
        tightest = bisect_left(room, (lengths[place], -1))
        if tightest == len(room):
            left, pack = limit, len(found)
            found.append([])
        else:
            left, pack = room.pop(tightest)
        found[pack].append(place)
        insort(room, (left - lengths[place], pack))
    return found
