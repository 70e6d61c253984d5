"""Held-out answers of which long stretches are learnt: 13 words in a row, as in GPT-3's own check.

Source: Brown et al. 2020, arXiv:2005.14165, appendix C.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from finetune.check.spill import Spill
from finetune.check.words import CHARACTER_SHINGLE, Hashes, Units, runs

WORDS, CHARACTERS = 13, 26
"""Units of a stretch; a Chinese word has about two characters."""

COMMON = 10
"""Learnt answers in which a stretch may stand; one that stands in more is a phrase of the trade."""

LEAST_SHARE = 0.5
"""Of an answer's stretches that are learnt, from which it is told: a quoted clause alone is not a leak."""


def overlaps(
    spill: Spill, held: npt.NDArray[np.bool_], leaked: npt.NDArray[np.bool_]
) -> Iterator[tuple[int, int, float]]:
    """Yields a held-out row that is not known to leak, a learnt row that shares a stretch, and the share of it all."""
    asked = {
        row: stretches for row, units, size in spill.answers() if held[row] and not leaked[row]
        for stretches in [_stretches(units, size)] if len(stretches)
    }  # fmt: skip
    if not asked:
        return
    known = np.unique(np.concatenate(list(asked.values())))
    counts, sources = np.zeros(len(known), np.int32), np.zeros(len(known), np.int32)
    for row, units, size in spill.answers():
        if held[row] or not len(stretches := _stretches(units, size)):
            continue
        at = np.searchsorted(known, stretches)
        at[at == len(known)] = 0
        found = np.unique(at[known[at] == stretches])
        counts[found] += 1
        sources[found] = row
    for row, stretches in asked.items():
        at = np.searchsorted(known, stretches)
        learnt = (counts[at] > 0) & (counts[at] <= COMMON)
        if learnt.mean() >= LEAST_SHARE:
            yield row, int(sources[at[learnt]][0]), float(learnt.mean())


def _stretches(units: Units, size: int) -> Hashes:
    length = CHARACTERS if size == CHARACTER_SHINGLE else WORDS
    return runs(units, length) if len(units) >= length else np.empty(0, np.uint64)
