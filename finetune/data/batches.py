"""How the examples of one optimizer step lie in micro-batches: like lengths together, or end to end in packs.

Which examples a step has is decided elsewhere and stays as it is: a step's loss is the mean over all of its learnt
tokens, so that it does not matter with whom an example shares a micro-batch.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence


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
