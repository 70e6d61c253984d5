"""Ways to hold less memory for the same training. The plan pulls them; the model room builds what they say.

Each but a quantised head leaves every number as it is: it moves bytes or computes them again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Embeddings = Literal["device", "host"]
Head = Literal["full", "int8", "nf4"]
Checkpoints = Literal["device", "host"]
Recompute = Literal["layer", "halves"]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]


@dataclass(frozen=True)
class Levers:
    """One position of every lever; the defaults are the plain stack."""

    embeddings: Embeddings = "device"
    """Where the input embedding lies; from the host only the rows of a batch travel."""
    head: Head = "full"
    """Precision of the frozen output head: the base's dtype, 8 bits with a scale a row, or NF4."""
    checkpoints: Checkpoints = "device"
    """Where the inputs that backward recomputes from wait: on the device, or in pinned host memory."""
    recompute: Recompute = "layer"
    """What backward recomputes at a time: a whole layer, or its mixer and its feed-forward one after the other."""
    optimizer: Optimizer = "adamw"
    """How AdamW keeps its two states: in float32, in 8 bits, or in 8 bits in memory that can move to the host."""


OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)

POSITIONS: dict[str, tuple[str, ...]] = {
    "embeddings": get_args(Embeddings),
    "head": get_args(Head),
    "checkpoints": get_args(Checkpoints),
    "recompute": get_args(Recompute),
    "optimizer": OPTIMIZERS,
}
"""Lever -> its positions, the plain one first."""
