"""How much rounding to the dtype on disk can move a weight."""

from __future__ import annotations

import torch

SIGNIFICAND_BITS = {"BF16": 8, "F16": 11, "F32": 18, "F64": 18}
"""Of a dtype as safetensors names it, the hidden one too; of the wide ones those that float32's sums get right."""


def unit_in_the_last_place(weights: torch.Tensor, dtype: str) -> torch.Tensor:
    """Gives the distance between a weight and the next larger one of that dtype; 0 for a weight of 0, which is exact.

    Rounding to the nearest moves a weight by half of it at most, evenly spread: the variance is its square / 12.
    """
    exponent = torch.frexp(weights).exponent  # of a fraction from 0.5 to 1
    return torch.ldexp(weights.ne(0).float(), exponent - SIGNIFICAND_BITS[dtype])
