"""Intervals by drawing the items again, with replacement: for a loss, a mean score, or anything that is sum by sum.

Everything here is a ratio of two sums over units: a loss is nats by tokens, a mean is scores by items. A unit is an
item or, where several items share a document, the document: then those go in and out together.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy
from numpy.typing import NDArray

from finetune.statistics.intervals import Interval

Figures = NDArray[numpy.float64]

DRAWS = 10_000
SEED = 0

MOST_AT_ONCE = 2**21
"""Drawn units that are held at once, 16 MiB for each array of them; the draws are the same whatever it is."""

LEVELS = (0.025, 0.975)
"""Where an interval of 95 % begins and ends."""


@dataclass(frozen=True)
class Units:
    """What is drawn."""

    sums: Figures
    """(quantities, units): of each unit, such as nats under several models."""
    weights: Figures
    """(units,): by what a sum is divided, such as tokens or items."""

    @property
    def ratios(self) -> Figures:
        """Of all units, (quantities,)."""
        totals: Figures = self.sums.sum(axis=1) / self.weights.sum()
        return totals


def units_of(
    quantities: Sequence[Sequence[float]],
    weights: Sequence[float] | None = None,
    clusters: Sequence[Hashable] | None = None,
) -> Units:
    """Gathers what is drawn together.

    Args:
        quantities: of each, its share of every item.
        weights: of the items; each counts as one without them.
        clusters: what each item belongs to, such as its document; each is its own without them.

    Raises:
        ValueError: there are no items, their weights add up to nothing, or not all of them tell the same number.
    """
    num_items = len(quantities[0])
    given = (*quantities, *([weights] if weights is not None else []), *([clusters] if clusters is not None else []))
    if num_items == 0 or any(len(each) != num_items for each in given):
        raise ValueError(f"drawing takes figures of the same items: {[len(each) for each in given]}")
    sums = numpy.array(quantities, dtype=numpy.float64)
    weighed = numpy.ones(num_items) if weights is None else numpy.array(weights, dtype=numpy.float64)
    if not (weighed.min() >= 0 and weighed.sum() > 0):
        raise ValueError("weights are positive")
    if clusters is None:
        return Units(sums, weighed)
    numbers: dict[Hashable, int] = {}
    of = numpy.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
    gathered = numpy.array([numpy.bincount(of, weights=row) for row in (*sums, weighed)], dtype=numpy.float64)
    return Units(gathered[:-1], gathered[-1])


def drawn_ratios(units: Units, draws: int = DRAWS, seed: int = SEED) -> Figures:
    """Gives the ratios of sets of as many units, drawn with replacement, the same sets for all: (quantities, draws).

    Source: Efron, Annals of Statistics 7, 1979, p. 1; clusters as a whole: Davison and Hinkley, Bootstrap Methods and
    their Application, 1997, section 3.8.
    """
    generator = numpy.random.default_rng(seed)
    count = units.sums.shape[1]
    at_once = max(1, MOST_AT_ONCE // count)
    found = numpy.empty((len(units.sums), draws))
    for begin in range(0, draws, at_once):
        end = min(begin + at_once, draws)
        taken = generator.integers(count, size=(end - begin, count))
        divisor = units.weights[taken].sum(axis=1)
        for row, sums in zip(found, units.sums, strict=True):
            row[begin:end] = sums[taken].sum(axis=1) / divisor
    return found


def percentile(value: float, drawn: Figures) -> Interval:
    """Gives an interval as the middle 95 % of what was drawn.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13.
    """
    low, high = numpy.percentile(drawn, [100 * level for level in LEVELS])
    return Interval(value, float(low), float(high))


def bca(units: Units, drawn: Figures) -> Interval:
    """Gives the interval of a single ratio, corrected for bias and skew, which fewer units need more.

    Args:
        units: of one quantity.
        drawn: its ratios, (draws,).

    Source: Efron, Journal of the American Statistical Association 82, 1987, p. 171; the acceleration by leaving out one
    unit at a time.
    """
    (value,) = units.ratios.tolist()
    normal = NormalDist()
    below = float(((drawn < value).sum() + (drawn <= value).sum()) / (2 * len(drawn)))
    edge = 0.5 / len(drawn)  # so that the value may lie beyond all that was drawn
    bias = normal.inv_cdf(min(max(below, edge), 1 - edge))
    acceleration = _acceleration(units)
    ends = []
    for level in LEVELS:
        shifted = bias + normal.inv_cdf(level)
        ends.append(100 * normal.cdf(bias + shifted / (1 - acceleration * shifted)))
    low, high = numpy.percentile(drawn, ends)
    return Interval(value, float(low), float(high))


def sure_ratio(
    quantity: Sequence[float],
    weights: Sequence[float] | None = None,
    clusters: Sequence[Hashable] | None = None,
    **drawing: Any,
) -> Interval:
    """Gives a loss, or a mean, with its interval (`bca`).

    Args:
        quantity: of each item, such as the nats of its learnt tokens.
        weights: such as the number of those tokens.
        clusters: as in `units_of`.
        drawing: `draws` and `seed`.

    Raises:
        ValueError: as `units_of` does.
    """
    units = units_of([quantity], weights, clusters)
    return bca(units, drawn_ratios(units, **drawing)[0])


def _acceleration(units: Units) -> float:
    """Gives how fast the ratio's error grows with it; 0 where no unit makes a difference."""
    if units.sums.shape[1] == 1:
        return 0.0
    left = units.weights.sum() - units.weights
    if not left.all():  # all the weight is one unit's
        return 0.0
    without = (units.sums[0].sum() - units.sums[0]) / left
    off = without.mean() - without
    spread = float((off**2).sum())
    if spread <= (1e-12 * float(without.mean())) ** 2 * len(off):  # rounding alone
        return 0.0
    return float((off**3).sum()) / float(6 * spread**1.5)
