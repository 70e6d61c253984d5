"""How sure a ledger is: intervals by drawing the held-out examples again, paired, so that hard ones count alike."""

from __future__ import annotations

from finetune.model import Score
from finetune.statistics import Interval, drawn_ratios, percentile, units_of
from finetune.statistics.drawing import Figures

__all__ = ["DRAWS", "LEAST_EXAMPLES", "Interval", "difference", "kept", "loss"]

DRAWS = 4000

LEAST_EXAMPLES = 5
"""Without which drawing them again says nothing, and no share is told."""


def loss(score: Score) -> Interval:
    """Gives a model's loss, in nats a learnt token."""
    return percentile(score.loss, _drawn([score])[0])


def difference(score: Score, other: Score) -> Interval:
    """Gives by how much a model's loss is above another's, in nats a learnt token."""
    one, two = _drawn([score, other])
    return percentile(score.loss - other.loss, one - two)


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
    if percentile(0.0, effect).low <= 0 or effect.min() <= 0:
        return None
    return percentile((base.loss - score.loss) / (base.loss - tuned.loss), (before - now) / effect)


def _drawn(scores: list[Score]) -> Figures:
    """Gives the losses of several models on the same sets of examples, drawn with replacement, (models, draws)."""
    return drawn_ratios(units_of([score.losses for score in scores], scores[0].tokens), DRAWS)
