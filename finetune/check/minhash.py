"""MinHash over batches of rows, and the bands by which similar rows meet.

Two rows agree in one of the 128 minima with a probability that is the Jaccard index of their shingles (Broder 1997).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from finetune.check.words import Hashes, mixed

PERMUTATIONS, BANDS = 128, 32
"""32 bands of 4: two rows meet in one with 0.9999999 at a Jaccard index of 0.8, 0.96 at 0.55, 0.23 at 0.3."""

_random = np.random.default_rng(20_251)
_FACTORS = _random.integers(1, 2**64, PERMUTATIONS, np.uint64) | np.uint64(1)
_TERMS = _random.integers(0, 2**64, PERMUTATIONS, np.uint64)


def signatures(rows: Sequence[Hashes]) -> npt.NDArray[np.uint32]:
    """Gives the minima of each row's shingles, of shape (row, permutation). Each row has a shingle at least.

    Multiply-add-shift: the upper half of a * x + b, 64 bits. Source: Dietzfelbinger 1996, doi:10.1007/3-540-60922-9_46.
    """
    shingles = np.concatenate(rows) >> np.uint64(32)
    starts = np.cumsum([0, *map(len, rows[:-1])])
    minima = np.empty((PERMUTATIONS, len(rows)), np.uint32)
    for i in range(PERMUTATIONS):
        hashed = (shingles * _FACTORS[i] + _TERMS[i]) >> np.uint64(32)
        minima[i] = np.minimum.reduceat(hashed, starts)
    return minima.T


def bands(minima: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Folds each four minima into one number, of shape (row, band)."""
    grouped = minima.reshape(len(minima), BANDS, -1).astype(np.uint64)
    told = np.zeros(grouped.shape[:2], np.uint64)
    for i in range(grouped.shape[2]):
        told = mixed(told * np.uint64(0x9E3779B97F4A7C15) + grouped[:, :, i])
    return (told >> np.uint64(32)).astype(np.uint32)
