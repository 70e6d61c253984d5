"""What a small Qwen3.6 looks like: every mechanism of the real one, in a few sizes that are not published.

The pattern is kept (three Gated DeltaNet layers, then one of gated full attention), and so are the ratios that code
trips over: three value heads to a key head in DeltaNet, a query projection twice as wide as its heads, rotary
positions on a quarter of each head in three interleaved sections, a vocabulary padded beyond the tokenizer's tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import Qwen3_5Config, Qwen3_5MoeConfig

NUM_LAYERS = 4
FULL_ATTENTION_INTERVAL = 4
LINEAR_KEY_HEADS = 2
LINEAR_VALUE_HEADS = 6
ATTENTION_HEADS = 2
KEY_VALUE_HEADS = 1
NUM_EXPERTS = 8
EXPERTS_PER_TOKEN = 2

VISION = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 2,
    "num_position_embeddings": 64,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
"""An image tower that is there to be carried along; nothing here ever shows it an image."""

PUBLISHED_EXTRAS = {
    "attn_output_gate": True,
    "full_attention_interval": FULL_ATTENTION_INTERVAL,
    "mamba_ssm_dtype": "float32",
    "mtp_num_hidden_layers": 1,
    "mtp_use_dedicated_embeddings": False,
    "output_gate_type": "swish",
}
"""Keys of the published text_config that transformers keeps but does not read; vLLM and llama.cpp do."""


@dataclass(frozen=True)
class Size:
    """How small. One record serves the dense model and the mixture of experts."""

    hidden_size: int
    intermediate_size: int
    """Width of the dense feed-forward."""
    expert_intermediate_size: int
    """Width of one routed expert, and of the shared one."""
    head_dim: int
    linear_head_dim: int
    """Of keys and of values in Gated DeltaNet."""
    mrope_section: tuple[int, int, int]
    """Rotary frequencies for time, height and width: together head_dim * 0.25 / 2."""
    num_tokens: int
    """The most tokens the tokenizer may have, added tokens included."""
    vocab_multiple: int
    """The embedding has the next multiple of this many rows, and never fewer than the tokenizer's tokens."""
    initializer_range: float
    """Standard deviation of a fresh weight."""


DEMO = Size(
    hidden_size=256,
    intermediate_size=768,
    expert_intermediate_size=256,
    head_dim=256,
    linear_head_dim=128,
    mrope_section=(11, 11, 10),
    num_tokens=4080,
    vocab_multiple=256,
    initializer_range=0.0625,
)
"""The deviation is 1 / sqrt(hidden). With the published 0.02 the head's rows are so short at this width that no adapter
can make a token likely that the corpus hardly holds: tuning stopped at 0.6 nats a token where training every weight
reached 0.16.

Widths are multiples of 256, the block of llama.cpp's K-quants; head sizes and sections are the published ones."""

PICO = Size(
    hidden_size=64,
    intermediate_size=128,
    expert_intermediate_size=64,
    head_dim=32,
    linear_head_dim=32,
    mrope_section=(2, 1, 1),
    num_tokens=600,
    vocab_multiple=64,
    initializer_range=0.04,
)
"""For tests. Each quantisable projection reads at least 64 and writes a multiple of 32.

Source: bitsandbytes 0.50 repacks 4-bit weights on CPUs with AVX512-BF16 and asserts just that.
Of the deviation 0.04: with the published 0.02 the layers hardly show beside the embedding at this width; with 0.1
rounding to 4 bits moves the logits by 74 % of their size (here by 26 %), and nothing could be compared.
"""


def make_config(size: Size, token_ids: Mapping[str, int], *, moe: bool, tied: bool) -> Qwen3_5Config | Qwen3_5MoeConfig:
    """Describes the multimodal model around a tokenizer's vocabulary.

    Args:
        size: The widths.
        token_ids: Id of every token; the largest decides the rows of the embedding.
        moe: Whether each layer's feed-forward is a mixture of experts.
        tied: Whether the head shares the embedding's weight, as in the published sizes up to 4B.
    """
    config_class, family = (Qwen3_5MoeConfig, "Qwen3_5Moe") if moe else (Qwen3_5Config, "Qwen3_5")
    return config_class(
        architectures=[f"{family}ForConditionalGeneration"],
        text_config=_text_settings(size, token_ids, moe=moe, tied=tied),
        vision_config={**VISION, "out_hidden_size": size.hidden_size},
        image_token_id=token_ids["<|image_pad|>"],
        video_token_id=token_ids["<|video_pad|>"],
        vision_start_token_id=token_ids["<|vision_start|>"],
        vision_end_token_id=token_ids["<|vision_end|>"],
        tie_word_embeddings=tied,
        dtype="bfloat16",
    )


def _text_settings(size: Size, token_ids: Mapping[str, int], *, moe: bool, tied: bool) -> dict[str, Any]:
    """Lists the published `text_config`, key by key, at our size."""
    num_tokens = max(token_ids.values()) + 1
    return {
        **PUBLISHED_EXTRAS,
        **(_expert_widths(size) if moe else {"intermediate_size": size.intermediate_size}),
        "vocab_size": -(-num_tokens // size.vocab_multiple) * size.vocab_multiple,
        "bos_token_id": token_ids["<|endoftext|>"],
        "eos_token_id": token_ids["<|endoftext|>"],
        "hidden_size": size.hidden_size,
        "num_hidden_layers": NUM_LAYERS,
        "layer_types": ["linear_attention"] * (FULL_ATTENTION_INTERVAL - 1) + ["full_attention"],
        "num_attention_heads": ATTENTION_HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "head_dim": size.head_dim,
        "linear_conv_kernel_dim": 4,
        "linear_num_key_heads": LINEAR_KEY_HEADS,
        "linear_num_value_heads": LINEAR_VALUE_HEADS,
        "linear_key_head_dim": size.linear_head_dim,
        "linear_value_head_dim": size.linear_head_dim,
        "initializer_range": size.initializer_range,
        "max_position_embeddings": 262_144,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000_000,
            "partial_rotary_factor": 0.25,
            "mrope_interleaved": True,
            "mrope_section": list(size.mrope_section),
        },
        "tie_word_embeddings": tied,
        "dtype": "bfloat16",
    }


def _expert_widths(size: Size) -> dict[str, int]:
    """Lists what a mixture of experts has in place of `intermediate_size`."""
    return {
        "moe_intermediate_size": size.expert_intermediate_size,
        "shared_expert_intermediate_size": size.expert_intermediate_size,
        "num_experts": NUM_EXPERTS,
        "num_experts_per_tok": EXPERTS_PER_TOKEN,
    }
