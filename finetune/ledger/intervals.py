"""How sure a ledger is: intervals by drawing the held-out examples again, paired, so that hard ones count alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy

from finetune.model import Score

DRAWS = 4000
SEED = 0
LEAST_EXAMPLES = 5
"""Without which drawing them again says nothing, and no share is told."""

SURE = (2.5, 97.5)
"""Percentiles of a 95 % interval."""


@dataclass(frozen=True)
class Interval:
    """A figure of all examples, and where it lies in 95 of 100 sets of examples drawn from them."""

    value: float
    low: float
    high: float


def loss(score: Score) -> Interval:
    """Gives a model's loss, in nats a learnt token."""
    return _interval(score.loss, _drawn([score])[0])


def difference(score: Score, other: Score) -> Interval:
    """Gives by how much a model's loss is above another's, in nats a learnt token."""
    one, two = _drawn([score, other])
    return _interval(score.loss - other.loss, one - two)


def kept(score: Score, base: Score, tuned: Score) -> Interval | None:
    """Gives the share of what the tuning did to the loss that a model keeps; None where that is not clear.

    That is (base - model) / (base - tuned). Where sets of examples that were drawn have the tuning do harm as well as
    good, the share is one of nothing.

    Source: the percentile bootstrap of a ratio, Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13.
    """
    if len(score.losses) < LEAST_EXAMPLES:
        return None
    before, after, now = _drawn([base, tuned, score])
    effect = before - after
    if numpy.percentile(effect, SURE[0]) <= 0 or effect.min() <= 0:
        return None
    return _interval((base.loss - score.loss) / (base.loss - tuned.loss), (before - now) / effect)


def _drawn(scores: list[Score]) -> numpy.ndarray[tuple[int, int], numpy.dtype[numpy.float64]]:
    """Gives the losses of several models on the same sets of examples, drawn with replacement, (models, draws)."""
    count = len(scores[0].losses)
    taken = numpy.random.default_rng(SEED).integers(count, size=(DRAWS, count))
    tokens = numpy.array(scores[0].tokens, dtype=float)[taken].sum(axis=1)
    return numpy.stack([numpy.array(score.losses)[taken].sum(axis=1) / tokens for score in scores])


def _interval(value: float, drawn: numpy.ndarray[tuple[int], numpy.dtype[numpy.float64]]) -> Interval:
    low, high = numpy.percentile(drawn, SURE)
    return Interval(value, float(low), float(high))
