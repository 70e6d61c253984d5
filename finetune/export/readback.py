"""What a GGUF says of itself, read back from the disk, against the model that it was made of."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch

from finetune.errors import ProofFailed
from finetune.run import Claim, claim
from finetune.shards import read_json

ARCHITECTURES = {"qwen3_5": "qwen35", "qwen3_5_moe": "qwen35moe"}
"""model_type of a config.json, without `_text`, and llama.cpp's name for it."""


def check_fields(file: Path, told: dict[str, Any], merged: Path, template: str) -> list[Claim]:
    """Compares the metadata with the merged folder's.

    Args:
        file: the GGUF.
        told: what llama.cpp's reader found in it: `fields` and `tensors`.
        merged: the folder that it was made of.
        template: the chat template that it should carry.

    Raises:
        ProofFailed: naming what is another.
    """
    fields, tensors = told["fields"], told["tensors"]
    config = read_json(merged / "config.json", "the merged model's config")
    text = config.get("text_config", config)
    tokens, served = (
        fields["tokenizer.ggml.tokens"],
        read_json(merged / "tokenizer_config.json", "the tokenizer's config"),
    )
    architecture = ARCHITECTURES[str(config["model_type"]).removesuffix("_text")]
    wanted = {
        "architecture": architecture,
        "layers": text["num_hidden_layers"],
        "tokens": text["vocab_size"],
        "end of turn": _content(served["eos_token"]),
        "pre-tokenizer": "qwen35",
        "chat template": template,
    }
    found = {
        "architecture": fields.get("general.architecture"),
        "layers": fields.get(f"{architecture}.block_count"),
        "tokens": len(tokens),
        "end of turn": tokens[fields["tokenizer.ggml.eos_token_id"]],
        "pre-tokenizer": fields.get("tokenizer.ggml.pre"),
        "chat template": fields.get("tokenizer.chat_template"),
    }
    for name, value in wanted.items():
        if found[name] != value:
            raise ProofFailed(
                f"the {name} of the GGUF is another", where=str(file), why=f"{found[name]!s:.60} is not {value!s:.60}"
            )
    kinds = Counter(kind for _, kind, _ in tensors)
    return [
        claim(f"{', '.join(wanted)} read back", len(wanted), len(wanted)),
        claim("tensors", ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items())), None),
    ]


def same_weights(file: Path, merged: Path) -> Claim:
    """Loads a GGUF in bf16 by transformers' own reader, and the merged folder, and compares every weight.

    Both are held in memory. Gains of norms and decays are compared as llama.cpp holds them, and as the model uses them.

    Raises:
        ProofFailed: naming the first weight that differs.
    """
    from transformers import AutoModelForCausalLM

    made = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16).state_dict()
    whole = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.bfloat16).state_dict()
    for name, weight in whole.items():
        if name not in made or not torch.equal(_as_held(name, made[name]), _as_held(name, weight)):
            raise ProofFailed("a weight of the GGUF is not the merged model's", where=f"{file}  {name}")
    return claim("weights, as llama.cpp holds them, that transformers reads back bit for bit", len(whole), len(whole))


def _as_held(name: str, weight: torch.Tensor) -> torch.Tensor:
    """Gives a weight as a GGUF has it, in float32: of a gain 1 + w, of a decay exp(w).

    One that was trained may be so near to 0 that its last bits are lost there, and so they are in the model itself.

    Source: llama.cpp as in llama-cpp-python 0.3.36, conversion/qwen.py (Qwen3NextModel.modify_tensors).
    """
    if name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight"):
        return weight.float() + 1
    return weight.float().exp() if name.endswith(".A_log") else weight


def _content(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else str(token)
