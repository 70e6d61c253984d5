"""A base with the widths of the 27B or the 35B-A3B, few layers and a small vocabulary, never whole in memory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Qwen3_5Config, Qwen3_5MoeConfig

SHARD_BYTES = 10**9
SKIPPED = {"mtp.fc.weight": (5120, 10240), "model.visual.merger.linear_fc1.weight": (4608, 4608)}
"""Of the parts that no text-only class loads: enough to show that not a byte of them is read."""


def write_wide_base(
    folder: Path, *, num_layers: int, num_tokens: int, shard_bytes: int = SHARD_BYTES, moe: bool = False
) -> int:
    """Writes config and shards of random bf16 weights under the published names, and gives the bytes of the text model.

    Args:
        folder: takes the files; must not exist.
        num_layers: a multiple of 4: three of Gated DeltaNet, then one of full attention. One has about 0.77 GB, of the
            mixture 1.68.
        num_tokens: rows of the embedding and of the head, 10,240 bytes each, of the mixture 4,096.
        shard_bytes: about how large a file is; no more of the base is in memory at a time.
        moe: the widths of the 35B-A3B.
    """
    folder.mkdir(parents=True)
    config = _mixture(num_layers, num_tokens) if moe else _config(num_layers, num_tokens)
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config.get_text_config(), dtype=torch.bfloat16)
    shapes = {_published(name): tuple(p.shape) for name, p in model.named_parameters()}
    index: dict[str, str] = {}
    for number, group in enumerate(_groups({**shapes, **SKIPPED}, shard_bytes)):
        file = f"model-{number:05}.safetensors"
        save_file({name: _random(shape) for name, shape in group.items()}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(group, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return 2 * sum(math.prod(shape) for shape in shapes.values())


def _published(name: str) -> str:
    return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name


def _groups(shapes: dict[str, tuple[int, ...]], shard_bytes: int) -> Iterator[dict[str, tuple[int, ...]]]:
    group: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        group[name] = shape
        if 2 * sum(map(math.prod, group.values())) > shard_bytes:
            yield group
            group = {}
    if group:
        yield group


def _random(shape: tuple[int, ...]) -> torch.Tensor:
    """Normal numbers, a million of them over and over: the time of quantising does not depend on them."""
    million = torch.randn(2**20).mul_(0.02).to(torch.bfloat16)
    return million.repeat(-(-math.prod(shape) // len(million)))[: math.prod(shape)].view(shape).clone()


def _config(num_layers: int, num_tokens: int) -> Qwen3_5Config:
    """The 27B's, as far as the widths go.

    Source: transformers 5.23, configuration_qwen3_5.py, and the model card of Qwen3.6-27B.
    """
    return Qwen3_5Config(
        text_config={
            "vocab_size": num_tokens,
            "hidden_size": 5120,
            "intermediate_size": 17408,
            "num_hidden_layers": num_layers,
            "num_attention_heads": 24,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": 48,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "tie_word_embeddings": False,
        },
        tie_word_embeddings=False,
    )


def _mixture(num_layers: int, num_tokens: int) -> Qwen3_5MoeConfig:
    """The 35B-A3B's, as far as the widths go: transformers' own defaults. Source: configuration_qwen3_5_moe.py."""
    text = {"vocab_size": num_tokens, "num_hidden_layers": num_layers, "tie_word_embeddings": False}
    return Qwen3_5MoeConfig(text_config=text, tie_word_embeddings=False)
