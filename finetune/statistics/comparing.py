"""Compares two models on the same items: by how much they differ, how surely, and what that set could have shown."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from finetune.statistics.drawing import bca, drawn_ratios, units_of
from finetune.statistics.intervals import SURE, Interval
from finetune.statistics.pairs import mcnemar, newcombe, pairs_of
from finetune.statistics.visible import ENOUGH_UNITS, visible_change, visible_share

Better = Literal["lower", "higher"]
Verdict = Literal["better", "worse", "no evidence"]

__all__ = ["ENOUGH_UNITS", "Better", "Comparison", "Verdict", "paired_binary", "paired_mean", "verdict"]


@dataclass(frozen=True)
class Comparison:
    """What a second model does otherwise than a first."""

    difference: Interval
    """The second's figure minus the first's."""
    p: float | None
    """How often chance alone does as much; None where there is no exact test."""
    sees: float | None
    """The smallest true difference that such a set shows four times in five; None where it can show none."""
    units: int
    """That are independent of each other: items, or documents that share them."""


def paired_binary(
    one: Sequence[bool], other: Sequence[bool], clusters: Sequence[Hashable] | None = None, **drawing: Any
) -> Comparison:
    """Compares right and wrong answers: Newcombe's interval and McNemar's exact p.

    Where items share documents both would take them for more than they are: the documents are drawn again instead.

    Args:
        one: whether the first model's answer is right, of each item.
        other: the second's, in the same order.
        clusters: the document of each item.
        drawing: `draws` and `seed`, of documents.

    Raises:
        ValueError: there are no items, or not the same number of each.
    """
    if clusters is not None and len(set(clusters)) < len(clusters):
        return paired_mean(
            [float(right) for right in one], [float(right) for right in other], None, clusters, **drawing
        )
    pairs = pairs_of(one, other)
    difference = newcombe(pairs)
    sees = visible_share(pairs.items, pairs.one + pairs.other)
    return Comparison(difference, mcnemar(pairs), sees, pairs.items)


def paired_mean(
    one: Sequence[float],
    other: Sequence[float],
    weights: Sequence[float] | None = None,
    clusters: Sequence[Hashable] | None = None,
    **drawing: Any,
) -> Comparison:
    """Compares sums by weight: mean scores, or losses a token (nats by item, weighed by tokens).

    Args:
        one: the first model's figure of each item.
        other: the second's, in the same order.
        weights: of the items, such as their learnt tokens; without them the figures' means are compared.
        clusters: the document of each item.
        drawing: `draws` and `seed`.

    Raises:
        ValueError: there are no items, or not the same number of each.
    """
    apart = [second - first for first, second in zip(one, other, strict=True)]
    units = units_of([apart], weights, clusters)
    drawn = drawn_ratios(units, **drawing)[0]
    count = units.sums.shape[1]
    varied = float(drawn.max() - drawn.min()) > 1e-12 * float(abs(drawn).max())
    error = float(drawn.std(ddof=1)) if varied else 0.0
    return Comparison(bca(units, drawn), None, visible_change(error, count), count)


def verdict(compared: Comparison, better: Better, p: float | None = None) -> Verdict:
    """Says whether the second model is better, worse, or whether there is no evidence of either.

    There is evidence where the interval holds no 0 and p, if there is one, is at most 0.05, of 6 units at least.

    Args:
        compared: the two.
        better: which figures are.
        p: in place of the comparison's own, as `holm` adjusts it.
    """
    difference = compared.difference
    p = compared.p if p is None else p
    sure = difference.low > 0 or difference.high < 0
    if not sure or compared.units < ENOUGH_UNITS or (p is not None and p > 1 - SURE):
        return "no evidence"
    return "better" if (difference.value > 0) == (better == "higher") else "worse"
