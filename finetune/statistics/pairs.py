"""Two models answer the same items, each right or wrong: by how much one is better, and whether chance does as much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from finetune.statistics.intervals import Interval, wilson


@dataclass(frozen=True)
class Pairs:
    """How many items each of the two got right."""

    both: int
    one: int
    """Those that only the first got right: lost, if it is the older."""
    other: int
    """Those that only the second got right: gained."""
    neither: int

    @property
    def items(self) -> int:
        """All of them."""
        return self.both + self.one + self.other + self.neither


def pairs_of(one: Sequence[bool], other: Sequence[bool]) -> Pairs:
    """Counts answers that are right, of two models on the same items in the same order.

    Raises:
        ValueError: they answered different numbers of items.
    """
    counts = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
    for first, second in zip(one, other, strict=True):
        counts[bool(first), bool(second)] += 1
    return Pairs(*counts.values())


def newcombe(pairs: Pairs) -> Interval:
    """Gives by how much the second model's share of right answers is above the first's.

    The score intervals of the two shares are joined as their errors would be, with the correlation of the pairs,
    which is taken as smaller where it is positive so that the interval does not get too narrow.

    Source: Newcombe, Statistics in Medicine 17, 1998, p. 2635, method 10.

    Raises:
        ValueError: there are no items.
    """
    before, after = (wilson(pairs.both + only, pairs.items) for only in (pairs.one, pairs.other))
    difference = (pairs.other - pairs.one) / pairs.items
    phi = _correlation(pairs)
    below = _joined(after.value - after.low, before.high - before.value, phi)
    above = _joined(after.high - after.value, before.value - before.low, phi)
    return Interval(difference, difference - below, difference + above)


def mcnemar(pairs: Pairs) -> float:
    """Gives the exact two-sided p: how often chance alone divides the items that changed at least as unevenly.

    Source: McNemar, Psychometrika 12, 1947, p. 153; exact by the binomial distribution of a fair coin.
    """
    changed, fewer = pairs.one + pairs.other, min(pairs.one, pairs.other)
    ways, total = 1, 0  # of choosing so many of those that changed
    for number in range(fewer + 1):
        total += ways
        ways = ways * (changed - number) // (number + 1)
    return min(1.0, float(2 * total / 2**changed))


def _correlation(pairs: Pairs) -> float:
    """Gives phi of the 2 x 2 table, corrected for continuity; 0 where one of the models is always right or wrong."""
    before, after = pairs.both + pairs.one, pairs.both + pairs.other
    spread = math.sqrt(before * (pairs.items - before) * after * (pairs.items - after))
    together = float(pairs.both * pairs.neither - pairs.one * pairs.other)
    if spread == 0:
        return 0.0
    return (max(together - pairs.items / 2, 0.0) if together > 0 else together) / spread


def _joined(one: float, other: float, phi: float) -> float:
    """Gives the length of two errors that correlate."""
    return math.sqrt(max(one**2 - 2 * phi * one * other + other**2, 0.0))
