"""Rows that are nearly the same, gathered into groups: candidates by their bands, each compared shingle by shingle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

ALL_PAIRS = 12
"""Rows that meet in a band, up to which each pair is compared; of more, each with the first and with its neighbour."""

Same = Callable[[int, int], bool]


def equal_runs(values: npt.NDArray[np.generic], rows: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Yields the rows of each value that two rows or more share, in their order; values and rows are of one length."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    edges = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1], [True]]))
    for start, end in pairwise(edges.tolist()):
        if end - start > 1:
            yield rows[order[start:end]]


def gather(bands: npt.NDArray[np.uint32], rows: npt.NDArray[np.int64], same: Same) -> dict[int, list[int]]:
    """Gathers rows that are the same, or the same as one of the same, and so on.

    Args:
        bands: of each row, of shape (row, band).
        rows: their numbers.
        same: whether two rows are.

    Returns:
        The groups of two and more by their first row.
    """
    parents: dict[int, int] = {}
    rejected: set[tuple[int, int]] = set()
    for band in bands.T if len(rows) else ():
        for run in equal_runs(band, rows):
            for one, other in _pairs(run.tolist()):
                first, second = sorted((_root(parents, one), _root(parents, other)))
                if first == second or (one, other) in rejected:
                    continue
                if same(one, other):
                    parents[second] = first
                else:
                    rejected.add((one, other))
    groups: dict[int, list[int]] = {}
    for row in parents:
        groups.setdefault(_root(parents, row), []).append(row)
    return {first: sorted({first, *members}) for first, members in sorted(groups.items())}


def _pairs(run: list[int]) -> Iterator[tuple[int, int]]:
    """Lists the pairs of a meeting that are compared; the lower row first."""
    if len(run) <= ALL_PAIRS:
        yield from ((run[i], run[j]) for i in range(len(run)) for j in range(i + 1, len(run)))
        return
    for i in range(1, len(run)):
        yield run[0], run[i]
        if i > 1:
            yield run[i - 1], run[i]


def _root(parents: dict[int, int], row: int) -> int:
    while (parent := parents.get(row, row)) != row:
        parents[row] = parents.get(parent, parent)
        row = parent
    return row
