"""Writes finetune/shapes/*.json: the parameter shapes of published bases, made on torch's meta device.

    python scripts/make_shapes.py

Each config below holds the published values; the totals are checked against the published bytes before
anything is written. Source of the values: config.json of each repository (Qwen3.6-27B at revision 6a9e13bd;
the sizes of Qwen3.5 as in torchtitan b5bcd76c6, models/qwen3_5; Qwen3.8-27B has the widths and the bytes of
Qwen3.6-27B, by the census of its shards' headers); of the bytes: model.safetensors.index.json.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
)

from finetune.demo_base import mtp_shapes

OUT = Path(__file__).parent.parent / "finetune" / "shapes"

VISION = {
    "large": {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16},
    "middle": {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16},
    "small": {"depth": 12, "hidden_size": 768, "intermediate_size": 3072, "num_heads": 12},
}

# name: (hidden, layers, heads, key-value heads, feed-forward, linear value heads, tied, vision, parameters)
DENSE = {
    "Qwen3.6-27B": (5120, 64, 24, 4, 17408, 48, False, "large", 27_781_427_952),
    "Qwen3.8-27B": (5120, 64, 24, 4, 17408, 48, False, "large", 27_781_427_952),
    "Qwen3.5-9B": (4096, 32, 16, 4, 12288, 32, False, "large", 9_653_104_368),
    "Qwen3.5-4B": (2560, 32, 16, 4, 9216, 32, True, "middle", 4_659_865_088),
    "Qwen3.5-2B": (2048, 24, 8, 2, 6144, 16, True, "middle", 2_274_069_824),
    "Qwen3.5-0.8B": (1024, 24, 8, 2, 3584, 16, True, "small", 873_438_784),
}
EXPERTS_PER_TOKEN = 8
MOE = {"Qwen3.6-35B-A3B": (2048, 40, 16, 2, 512, 32, False, "large", 35_951_822_704)}


def main() -> None:
    """Makes every shape file."""
    OUT.mkdir(exist_ok=True)
    for name, values in (DENSE | MOE).items():
        shapes = parameter_shapes(*values[:-1], moe=name in MOE)
        total = sum(math.prod(shape) for shape in shapes.values())
        assert total == values[-1], f"{name}: {total:,} parameters, published are {values[-1]:,}"
        told: dict[str, Any] = {"model_type": "qwen3_5_moe" if name in MOE else "qwen3_5"}
        if name in MOE:
            told["experts_per_token"] = EXPERTS_PER_TOKEN
        told["parameters"] = grouped(shapes)
        (OUT / f"{name}.json").write_text(to_lines(told))
        print(f"{name}: {total:,} parameters, {2 * total:,} bytes in bf16")


def parameter_shapes(
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    feed_forward: int,
    value_heads: int,
    tied: bool,
    vision: str,
    *,
    moe: bool,
) -> dict[str, tuple[int, ...]]:
    """Gives the shape of every published parameter."""
    text: dict[str, Any] = {
        "vocab_size": 248320,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 256,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": value_heads,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "tie_word_embeddings": tied,
    }
    if moe:
        text |= {"num_experts": 256, "num_experts_per_tok": EXPERTS_PER_TOKEN}
        text |= {"moe_intermediate_size": feed_forward, "shared_expert_intermediate_size": feed_forward}
    else:
        text["intermediate_size"] = feed_forward
    config_class = Qwen3_5MoeConfig if moe else Qwen3_5Config
    model_class = Qwen3_5MoeForConditionalGeneration if moe else Qwen3_5ForConditionalGeneration
    config = config_class(
        text_config=text,
        vision_config={**VISION[vision], "out_hidden_size": hidden},
        tie_word_embeddings=tied,
    )
    with torch.device("meta"):
        model = model_class(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if tied:
        del shapes["lm_head.weight"]
    return shapes | mtp_shapes(config)


def grouped(shapes: dict[str, tuple[int, ...]]) -> list[dict[str, Any]]:
    """Writes layers that look alike once, with the list of their numbers."""
    groups: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for name, shape in shapes.items():
        match = re.search(r"\.(?:layers|blocks)\.(\d+)\.", name)
        pattern = name if match is None else name[: match.start(1)] + "*" + name[match.end(1) :]
        groups.setdefault((pattern, shape), []).extend([int(match.group(1))] if match else [])
    return [
        {"name": name, "shape": list(shape)} | ({"layers": layers} if layers else {})
        for (name, shape), layers in groups.items()
    ]


def to_lines(told: dict[str, Any]) -> str:
    """Writes one parameter a line, so that a difference can be read."""
    lines = ",\n".join("    " + json.dumps(entry) for entry in told["parameters"])
    head = "".join(f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in told.items() if key != "parameters")
    return f'{{\n{head}  "parameters": [\n{lines}\n  ]\n}}\n'


if __name__ == "__main__":
    main()
