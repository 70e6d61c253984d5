"""What a GGUF says of itself, read back from the disk, against the model that it was made of."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

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

    Both are held in memory.

    Raises:
        ProofFailed: naming the first weight that differs.
    """
    import torch
    from transformers import AutoModelForCausalLM

    made = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16).state_dict()
    whole = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.bfloat16).state_dict()
    for name, weight in whole.items():
        if name not in made or not torch.equal(made[name], weight):
            raise ProofFailed("a weight of the GGUF is not the merged model's", where=f"{file}  {name}")
    return claim("weights that transformers reads back bit for bit", len(whole), len(whole))


def _content(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else str(token)
