"""Bytes, by arithmetic on shapes. For now those of the weights alone; no byte here was guessed."""

from __future__ import annotations

import math
import re

from finetune.shape import ModelShape, is_text

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes a weight: 4 bits, one 8-bit scale for 64 weights, one fp32 for 256 scales.

Source: Dettmers et al. 2023, arXiv:2305.14314, section 3 (double quantization).
"""

_QUANTISED = re.compile(r"model\.(?:language_model\.)?layers\.\d+\.(?:linear_attn|self_attn|mlp)\..+\.weight")
_KEPT = re.compile(r"\.(?:in_proj_a|in_proj_b|shared_expert_gate|mlp\.gate|conv1d|norm|q_norm|k_norm)\.weight")


def weight_bytes(shape: ModelShape, *, nf4: bool, dtype_bytes: int) -> int:
    """Adds up the bytes of the text model's weights.

    Args:
        shape: of the base; vision and multi-token prediction are not counted, as they are not loaded.
        nf4: whether its linear layers are held in 4 bits; fused experts are not, since bitsandbytes skips them.
        dtype_bytes: of every other weight.
    """
    total = 0.0
    for name, dims in shape.parameters.items():
        if is_text(name):
            total += math.prod(dims) * (NF4_BYTES if nf4 and is_quantised(name) else dtype_bytes)
    return round(total)


def is_quantised(name: str) -> bool:
    """Tells whether a text weight is one of the linear layers that QLoRA holds in 4 bits."""
    return _QUANTISED.fullmatch(name) is not None and _KEPT.search(name) is None
