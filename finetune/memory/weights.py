"""What the frozen weights hold, by arithmetic on their shapes; no byte here was guessed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from finetune.levers import Levers
from finetune.shape import ModelShape, is_text

DTYPE_BYTES = {"cuda": 2, "cpu": 4}
"""bfloat16 on a GPU, float32 on a CPU."""

BLOCK = 64
"""Weights that share one absolute maximum in NF4."""
NESTED_BLOCK = 256
"""Absolute maxima that share one scale in their turn (double quantisation).

Source of both: Dettmers et al. 2023, arXiv:2305.14314, section 3.
"""

NF4_BYTES = 0.5 + 1 / BLOCK + 4 / (BLOCK * NESTED_BLOCK)
"""Bytes a weight: 4 bits, one 8-bit scale for 64 weights, one fp32 for 256 scales.

Source: Dettmers et al. 2023, arXiv:2305.14314, section 3 (double quantization).
"""

_QUANTISED = re.compile(r"model\.(?:language_model\.)?layers\.\d+\.(?:linear_attn|self_attn|mlp)\..+\.weight")
_KEPT = re.compile(r"\.(?:in_proj_a|in_proj_b|shared_expert_gate|mlp\.gate|conv1d|norm|q_norm|k_norm)\.weight")


@dataclass(frozen=True)
class WeightCounts:
    """Numbers of weights in the text model, by what becomes of them; vision and MTP are not loaded."""

    linears: int
    """Of the linear layers that QLoRA holds in 4 bits."""
    experts: int
    """Of routed experts, fused in three dimensions."""
    others: int
    """Of norms, convolutions, decays, routers and the small projections that feed them."""
    embedding: int
    head: int
    """0 where the head is the embedding."""
    largest: int
    """Of the largest matrix inside a layer."""


def count_weights(shape: ModelShape) -> WeightCounts:
    """Counts a base's weights from their names and shapes."""
    count = {"linears": 0, "experts": 0, "others": 0, "embedding": 0, "head": 0}
    largest = 0
    for name, dims in shape.parameters.items():
        if is_text(name):
            part = _part(name)
            count[part] += math.prod(dims)
            if part not in ("embedding", "head"):
                largest = max(largest, math.prod(dims))
    return WeightCounts(**count, largest=largest)


def _part(name: str) -> str:
    if name.endswith("embed_tokens.weight"):
        return "embedding"
    if name == "lm_head.weight":
        return "head"
    if ".mlp.experts." in name:
        return "experts"
    return "linears" if is_quantised(name) else "others"


def weight_parts(counts: WeightCounts, *, rows: int, nf4: bool, e: int, levers: Levers) -> dict[str, int]:
    """Gives the bytes of the text model's weights on the device, part by part.

    Args:
        counts: of the base.
        rows: of the vocabulary.
        nf4: whether the linear layers and the routed experts are held in 4 bits.
        e: bytes of every other weight.
        levers: where the vocabulary's matrices lie, and in how many bits.
    """
    found = {
        "linear layers in NF4": round(counts.linears * NF4_BYTES) if nf4 else 0,
        "linear layers": 0 if nf4 else counts.linears * e,
        "routed experts in NF4": round(counts.experts * NF4_BYTES) if nf4 else 0,
        "routed experts": 0 if nf4 else counts.experts * e,
        "other layers": counts.others * e,
        "embedding": counts.embedding * e if levers.embeddings == "device" else 0,
        "head": head_bytes(counts.head, rows, levers.head, e) if counts.head else 0,
    }
    return {name: size for name, size in found.items() if size}


def head_bytes(weights: int, rows: int, kind: str, e: int) -> int:
    """Gives the bytes of the output head: plain, in 8 bits with a float32 scale a row, or in NF4."""
    return {"full": weights * e, "int8": weights + 4 * rows, "nf4": round(weights * NF4_BYTES)}[kind]


def is_quantised(name: str) -> bool:
    """Tells whether a text weight is one of the linear layers that QLoRA holds in 4 bits."""
    return _QUANTISED.fullmatch(name) is not None and _KEPT.search(name) is None
