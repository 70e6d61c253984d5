"""Which model is measured: the exact shapes of a published base, or a pico one that tries the benchmark's logic out."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import Qwen3_5Config

from finetune.demo_base import make_pico_base
from finetune.memory import read_widths
from finetune.shape import ModelShape, read_shape

_LAYER = re.compile(r"\.language_model\.layers\.(\d+)\.")


@dataclass(frozen=True)
class Base:
    """A model of which only the config is on disk: its weights are drawn when they are needed."""

    name: str
    folder: Path
    """Holds config.json."""
    shape: ModelShape


def published(name: str, folder: Path, num_layers: int | None = None) -> Base:
    """Describes a dense base by its shipped shapes, whole or its first layers only.

    Args:
        name: on the Hub, such as "Qwen/Qwen3.6-27B".
        folder: where its config.json is written.
        num_layers: how many of its decoder layers; all of them if not told.
    """
    shape = first_layers(read_shape(name, None), num_layers)
    widths = read_widths(shape)
    assert not widths.num_experts, "routed experts are not quantised by bitsandbytes: no card of 24 GB holds them"
    text = {
        "vocab_size": widths.vocabulary,
        "hidden_size": widths.hidden,
        "intermediate_size": widths.feed_forward,
        "num_hidden_layers": widths.num_layers,
        "num_attention_heads": widths.query // widths.attention_head,
        "num_key_value_heads": widths.key_value // widths.attention_head,
        "head_dim": widths.attention_head,
        "linear_num_key_heads": widths.key // widths.head,
        "linear_num_value_heads": widths.value_heads,
        "linear_key_head_dim": widths.head,
        "linear_value_head_dim": widths.head,
        "tie_word_embeddings": widths.tied,
    }
    Qwen3_5Config(text_config=text, tie_word_embeddings=widths.tied).save_pretrained(folder)
    return Base(name.rpartition("/")[2], folder, shape)


def pico(folder: Path, *, moe: bool = False) -> Base:
    """Makes a pico base, dense or a mixture of experts; its own weights are not used."""
    make_pico_base(folder, moe=moe)
    return Base("pico-moe" if moe else "pico", folder, read_shape(str(folder), folder))


def first_layers(shape: ModelShape, num_layers: int | None) -> ModelShape:
    """Cuts a model off after some of its decoder layers."""
    if num_layers is None:
        return shape

    def kept(name: str) -> bool:
        found = _LAYER.search(name)
        return found is None or int(found[1]) < num_layers

    return replace(shape, parameters={name: dims for name, dims in shape.parameters.items() if kept(name)})
