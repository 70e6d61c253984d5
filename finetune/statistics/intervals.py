"""A figure and how far off it may be: a 95 % interval; that of a share of right answers needs no drawing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

SURE = 0.95
"""Of the intervals of this room: so many of a hundred hold the figure that an endless set would have shown."""

Z = NormalDist().inv_cdf((1 + SURE) / 2)
"""1.96: standard errors on each side."""


@dataclass(frozen=True)
class Interval:
    """A figure of all items, and where it lies in 95 of 100 sets of items like these."""

    value: float
    low: float
    high: float


def wilson(right: float, items: int) -> Interval:
    """Gives the share of right answers with its score interval, which stays within 0 and 1 and holds for few items.

    Source: Wilson, Journal of the American Statistical Association 22, 1927, p. 209; recommended over others by
    Brown, Cai and DasGupta, Statistical Science 16, 2001.

    Args:
        right: answers; one that is half right counts as a half, and makes the interval wider than it need be.
        items: of which they are.

    Raises:
        ValueError: there are no items, or more right ones than items.
    """
    if not 0 <= right <= items or items == 0:
        raise ValueError(f"{right} right answers of {items} items are no share")
    share = right / items
    middle = share + Z**2 / (2 * items)
    half = Z * math.sqrt(share * (1 - share) / items + Z**2 / (4 * items**2))
    low, high = ((middle + side * half) / (1 + Z**2 / items) for side in (-1, 1))
    # at the ends the interval touches 0 and 1, which rounding would miss
    return Interval(share, low if right > 0 else 0.0, high if right < items else 1.0)
