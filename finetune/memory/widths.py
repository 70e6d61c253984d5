"""The widths of a hybrid's layers, read off the shapes of its parameters: what every byte below is counted in."""

from __future__ import annotations

import re
from dataclasses import dataclass

from finetune.shape import ModelShape, is_text

_LAYER = re.compile(r"model\.(?:language_model\.)?layers\.\d+\.(.+)")


@dataclass(frozen=True)
class Widths:
    """Of the text model. Zero where the base has no such part."""

    hidden: int
    vocabulary: int
    tied: bool
    """Whether the output head shares the embedding's weight."""
    num_linear_layers: int
    num_attention_layers: int
    key: int
    """All key heads of one Gated DeltaNet layer together."""
    value: int
    value_heads: int
    head: int
    """One head of Gated DeltaNet, of keys and of values alike."""
    query: int
    """All query heads of one attention layer together, without their gates."""
    key_value: int
    """All key heads of one attention layer together; as many for values."""
    attention_head: int
    feed_forward: int
    """Intermediate width of the dense feed-forward, or of the shared expert."""
    num_experts: int
    experts_per_token: int
    expert: int
    """Intermediate width of one routed expert."""

    @property
    def num_layers(self) -> int:
        """Decoder layers of both kinds."""
        return self.num_linear_layers + self.num_attention_layers


def read_widths(shape: ModelShape) -> Widths:
    """Reads the widths of a base; all its layers of a kind are alike."""
    inside: dict[str, tuple[int, ...]] = {}
    count: dict[str, int] = {}
    outside: dict[str, tuple[int, ...]] = {}
    for name, dims in shape.parameters.items():
        if not is_text(name):
            continue
        if match := _LAYER.fullmatch(name):
            inside.setdefault(match[1], dims)
            count[match[1]] = count.get(match[1], 0) + 1
        else:
            outside[name.rsplit(".", 2)[-2]] = dims
    none = (0, 0)
    value = inside.get("linear_attn.in_proj_z.weight", none)[0]
    experts = inside.get("mlp.experts.gate_up_proj", (0, 0, 0))
    shared = inside.get("mlp.shared_expert.up_proj.weight", none)
    return Widths(
        hidden=outside["embed_tokens"][1],
        vocabulary=outside["embed_tokens"][0],
        tied="lm_head" not in outside,
        num_linear_layers=count.get("linear_attn.in_proj_z.weight", 0),
        num_attention_layers=count.get("self_attn.o_proj.weight", 0),
        key=(inside.get("linear_attn.in_proj_qkv.weight", none)[0] - value) // 2,
        value=value,
        value_heads=inside.get("linear_attn.A_log", none)[0],
        head=inside.get("linear_attn.norm.weight", none)[0],
        query=inside.get("self_attn.o_proj.weight", none)[1],
        key_value=inside.get("self_attn.k_proj.weight", none)[0],
        attention_head=inside.get("self_attn.q_norm.weight", none)[0],
        feed_forward=inside.get("mlp.up_proj.weight", shared)[0],
        num_experts=experts[0],
        experts_per_token=shape.experts_per_token,
        expert=experts[1] // 2,
    )
