"""Floor 1: how sure a measured figure is, and whether a difference is one. Arithmetic only; it reads no file."""

from finetune.statistics.comparing import (
    ENOUGH_UNITS,
    Better,
    Comparison,
    Verdict,
    paired_binary,
    paired_mean,
    verdict,
)
from finetune.statistics.drawing import DRAWS, SEED, Units, bca, drawn_ratios, percentile, sure_ratio, units_of
from finetune.statistics.intervals import SURE, Interval, wilson
from finetune.statistics.pairs import Pairs, mcnemar, newcombe, pairs_of
from finetune.statistics.several import holm
from finetune.statistics.visible import visible_change, visible_share

__all__ = [
    "DRAWS",
    "ENOUGH_UNITS",
    "SEED",
    "SURE",
    "Better",
    "Comparison",
    "Interval",
    "Pairs",
    "Units",
    "Verdict",
    "bca",
    "drawn_ratios",
    "holm",
    "mcnemar",
    "newcombe",
    "paired_binary",
    "paired_mean",
    "pairs_of",
    "percentile",
    "sure_ratio",
    "units_of",
    "verdict",
    "visible_change",
    "visible_share",
    "wilson",
]
