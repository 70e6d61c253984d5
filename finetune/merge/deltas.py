"""What several adapters add to a weight by TIES or DARE, made a few rows at a time, for its rank is full.

TIES keeps of each adapter's delta the largest numbers, elects a sign for each place and averages those that have it.
DARE drops numbers by chance and enlarges the others. Both are PEFT's arithmetic, on whole deltas as in the papers.
Source: Yadav et al. 2023, arXiv:2306.01708; Yu et al. 2024, arXiv:2311.03099; PEFT 0.21, utils/merge_utils.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from peft.utils.merge_utils import calculate_majority_sign_mask, disjoint_merge, task_arithmetic

from finetune.merge.changes import LowRank, OfExperts

Method = Literal["linear", "ties", "dare"]

Part = LowRank | OfExperts

STEP = 2**16
"""Numbers that are worked on together: what stays in a processor's cache."""

LOW_BITS = 15
"""Of the 31 bits of a magnitude in float32, that are counted in a second reading."""


@dataclass(frozen=True)
class Deltas:
    """Of one weight; of its rows all dimensions but the last are counted together."""

    parts: tuple[Part, ...]
    """What each adapter makes of the weight."""
    weights: tuple[float, ...]
    """Of each adapter."""
    density: float
    """Share of the numbers of each delta that is kept."""
    thresholds: torch.Tensor | None
    """For TIES, (parts, matrices): the least magnitude that is kept, of each expert alone."""
    keys: tuple[int, ...]
    """For DARE: what the numbers of each part's draws follow from."""

    @property
    def out(self) -> int:
        """Rows of one matrix."""
        return self.parts[0].b.shape[-2]

    @property
    def width(self) -> int:
        """Columns."""
        return self.parts[0].a.shape[-1]

    def apply(self, first: int, rows: torch.Tensor) -> torch.Tensor:
        """W and what is added."""
        return rows.add_(self.rows(first, len(rows)))

    def rows(self, first: int, count: int) -> torch.Tensor:
        """Makes some rows of what is added, (count, in)."""
        found = self.parts[0].a.new_empty(count, self.width)
        step = max(1, STEP // self.width)
        for start in range(0, count, step):
            few = found[start : start + step]
            few.copy_(self._rows(first + start, len(few)))
        return found

    def _rows(self, first: int, count: int) -> torch.Tensor:
        deltas = torch.stack([delta(part, first, count) for part in self.parts])  # (parts, rows, in)
        weights = torch.tensor(self.weights, device=deltas.device)
        if self.thresholds is None:
            kept = [drawn(key, first, count, self.width, self.density).to(deltas.device) for key in self.keys]
            found = task_arithmetic([each * k / self.density for each, k in zip(deltas, kept, strict=True)], weights)
        else:
            matrices = torch.arange(first, first + count) // self.out
            deltas *= deltas.abs() >= self.thresholds[:, matrices, None].to(deltas.device)
            elected = calculate_majority_sign_mask(deltas)
            found = disjoint_merge(deltas * weights[:, None, None], elected)
        return cast("torch.Tensor", found)


def delta(part: Part, first: int, count: int) -> torch.Tensor:
    """Makes some rows of what one adapter adds, (count, in)."""
    return part.apply(first, part.a.new_zeros(count, part.a.shape[-1]))


def thresholds(part: Part, density: float) -> torch.Tensor:
    """Finds for each matrix the magnitude that a share of its delta's numbers reaches, (matrices,).

    Equal numbers at that bound are all kept, where PEFT takes some of them.
    """
    out, width = part.b.shape[-2], part.a.shape[-1]
    matrices = part.b.shape[0] if isinstance(part, OfExperts) else 1
    kept = int(density * out * width)
    step = max(1, 4 * STEP // width)  # to clear the bins takes as long as to count STEP numbers

    def pieces(matrix: int) -> Iterator[torch.Tensor]:
        for start in range(0, out, step):
            yield delta(part, matrix * out + start, min(step, out - start))

    found = [kth_largest(lambda m=matrix: pieces(m), kept) for matrix in range(matrices)]  # type: ignore[misc]
    return torch.tensor(found)


def kth_largest(pieces: Callable[[], Iterator[torch.Tensor]], k: int) -> float:
    """Finds the k-th largest magnitude of float32 numbers that are read twice, in pieces; without any, infinity.

    The bits of magnitudes are in the order of the magnitudes: their upper half is counted first, then the lower half of
    those in which the wanted one lies.
    """
    if k == 0:
        return torch.inf
    upper = torch.zeros(2 ** (31 - LOW_BITS), dtype=torch.int64)
    for piece in pieces():
        upper += torch.bincount(_bits(piece) >> LOW_BITS, minlength=len(upper))
    high, k = _where(upper, k)
    lower = torch.zeros(2**LOW_BITS, dtype=torch.int64)
    for piece in pieces():
        bits = _bits(piece)
        among = bits[bits >> LOW_BITS == high] & (len(lower) - 1)
        lower += torch.bincount(among, minlength=len(lower))
    low, _ = _where(lower, k)
    return torch.tensor((high << LOW_BITS) + low, dtype=torch.int32).view(torch.float32).item()


def _bits(piece: torch.Tensor) -> torch.Tensor:
    return piece.abs().flatten().view(torch.int32).cpu()


def _where(counts: torch.Tensor, k: int) -> tuple[int, int]:
    """Tells in which bin the k-th from above lies, and the how-manieth it is there."""
    from_above = counts.flip(0).cumsum(0)
    at = int(torch.searchsorted(from_above, k))
    there = len(counts) - 1 - at
    return there, k - int(from_above[at] - counts[there])


def key_of(seed: int, part: int, name: str) -> int:
    """Gives what the draws of one adapter for one weight follow from."""
    return int.from_bytes(hashlib.sha256(f"{seed} {part} {name}".encode()).digest()[:16], "little")


def drawn(key: int, first: int, count: int, width: int, density: float) -> torch.Tensor:
    """Draws which numbers of some rows are kept, (count, width) bool: the same whichever rows are asked for together.

    Philox counts, so it can begin anywhere; a step gives four numbers of 64 bits, which are eight of 32.
    """
    start, size = first * width, count * width
    source = np.random.Philox(key=key)
    source.advance(start // 8)
    raw = source.random_raw((start % 8 + size + 1) // 2).view(np.uint32)[start % 8 :][:size]
    return torch.from_numpy(raw < np.uint64(round(density * 2**32))).view(count, width)
