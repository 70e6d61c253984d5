"""The smallest change that a set of items can show: four times in five, at 95 %."""

from __future__ import annotations

import math
from statistics import NormalDist

from finetune.statistics.intervals import Z

POWER = 0.8
"""How often a true change of that size is seen."""

Z_POWER = NormalDist().inv_cdf(POWER)

ENOUGH_UNITS = 6
"""Fewer cannot show a change: 5 that all change one way are chance in 2 of 32 sets, 6 in 2 of 64.

Source: the sign test, two-sided.
"""


def visible_share(items: int, changed: int) -> float | None:
    """Gives the smallest difference in the share of right answers that the items can show; None for fewer than 6.

    Args:
        items: that both models answered.
        changed: on which one is right and the other wrong. A difference cannot be larger than their share, so where
            that is too small it is taken to be the difference itself: all that changes, changes one way.

    Source: Connor, Biometrics 43, 1987, p. 207, solved for the difference.
    """
    if items < ENOUGH_UNITS:
        return None
    share = changed / items
    reach = Z * math.sqrt(items) + Z_POWER * math.sqrt(items - Z**2 + Z_POWER**2)
    difference = math.sqrt(share) * reach / (items + Z_POWER**2)
    if difference <= share:
        return difference
    # sqrt(items * d) = Z + Z_POWER * sqrt(1 - d), a quadratic equation of sqrt(1 - d)
    root = math.sqrt((Z * Z_POWER) ** 2 + (items + Z_POWER**2) * (items - Z**2))
    return 1 - ((root - Z * Z_POWER) / (items + Z_POWER**2)) ** 2


def visible_change(standard_error: float, units: int) -> float | None:
    """Gives the smallest difference in a mean or a loss that the units can show.

    It is None for fewer than 6, and where nothing varied, from which nothing follows for another set.

    Source: the normal approximation, for instance Miller, arXiv:2411.00640, section 5.
    """
    if units < ENOUGH_UNITS or standard_error <= 0:
        return None
    return (Z + Z_POWER) * standard_error
