"""The published folder of a Qwen3.6, written by hand: names, fused experts, shards, and the parts nobody trains.

transformers would not write it: `save_pretrained` of a model that was never loaded splits the fused experts into one
tensor each, and no class of its own holds the `mtp.*` block (the extra layer that predicts a second token).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from finetune.errors import ProofFailed

MIN_SHARDS = 3
"""Enough that a reader who takes the first file for the whole is found out."""


def mtp_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Lists the tensors of the multi-token-prediction block, which transformers ignores, without making any.

    The block joins the embedding of the next token to the hidden state, both normalised, by one projection, and
    passes the result through one full-attention decoder layer of the model's own kind.

    Args:
        config: A Qwen3_5Config or Qwen3_5MoeConfig, of any size.

    Source: names as `MtpModel` of transformers 5.23 reads them (conversion_mapping.py). For the 27B and the 35B-A3B
    this gives 424,699,392 and 844,640,768 parameters, with which the whole model has exactly the published bytes.
    """
    text = type(config.text_config).from_dict(
        config.text_config.to_dict() | {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
    )
    hidden = text.hidden_size
    with torch.device("meta"):
        layer = AutoModelForCausalLM.from_config(text).model.layers[0]
    return {
        "mtp.fc.weight": (hidden, 2 * hidden),
        "mtp.pre_fc_norm_embedding.weight": (hidden,),
        "mtp.pre_fc_norm_hidden.weight": (hidden,),
        "mtp.norm.weight": (hidden,),
        **{f"mtp.layers.0.{name}": tuple(weight.shape) for name, weight in layer.named_parameters()},
    }


def published_state(model: Any) -> dict[str, torch.Tensor]:
    """Gathers what the published files hold, under the published names, in bfloat16.

    The `mtp.*` weights are fresh random ones, which no training here touches.

    Args:
        model: The multimodal class; its own parameter names are the published ones, its experts are fused:
            `gate_up_proj` (expert, 2 * intermediate, hidden) and `down_proj` (expert, hidden, intermediate).
    """
    state = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]  # one tensor, stored once, as the embedding
    for name, shape in mtp_shapes(model.config).items():
        state[name] = torch.zeros(shape)  # right for a norm: it multiplies by 1 + weight
        if len(shape) > 1:
            state[name].normal_(std=model.config.text_config.initializer_range)
    return {name: weight.detach().to(torch.bfloat16).contiguous() for name, weight in state.items()}


def write_weights(state: dict[str, torch.Tensor], folder: Path) -> None:
    """Writes `model-0000i-of-0000N.safetensors` and their index, N at least three."""
    num_bytes = sum(weight.numel() * weight.element_size() for weight in state.values())
    save_torch_state_dict(
        state, folder, filename_pattern="model{suffix}.safetensors", max_shard_size=num_bytes // MIN_SHARDS
    )
    for shard in folder.glob("model-*.safetensors"):
        # safetensors 0.8 makes files only their owner may read; a server often runs as somebody else
        shard.chmod((folder / "model.safetensors.index.json").stat().st_mode)


def write_config(config: Any, folder: Path, *, im_end: int, endoftext: int) -> None:
    """Writes config.json and generation_config.json.

    Generation stops at the end of a turn or of a text, and samples as the published model does.

    Source: generation_config.json of Qwen3.8-27B; its Qwen3.6 sibling was not seen.
    """
    config.save_pretrained(folder)
    generation = {
        "bos_token_id": endoftext,
        "do_sample": True,
        "eos_token_id": [im_end, endoftext],
        "pad_token_id": endoftext,
        "temperature": 1.0,
        "top_k": 20,
        "top_p": 0.95,
    }
    text = json.dumps(generation, indent=2) + "\n"
    (folder / "generation_config.json").write_text(text, encoding="utf-8")


def prove_weights(state: dict[str, torch.Tensor], folder: Path) -> Any:
    """Reads the shards back bit for bit, loads them through transformers, and hands on the text-only model.

    Raises:
        ProofFailed: a tensor is missing or different, or transformers would invent one.
    """
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))["weight_map"]
    wrong = sorted(index.keys() ^ state.keys())
    for shard in sorted(set(index.values())):
        with safe_open(folder / shard, framework="pt") as tensors:
            names = tensors.keys()
            wrong += [name for name in names if not torch.equal(tensors.get_tensor(name), state[name])]
    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    wrong += sorted(loading["missing_keys"]) + sorted(loading["unexpected_keys"])
    if wrong:
        raise ProofFailed(
            "the weights that were read back are not those written", where=str(folder), why=", ".join(wrong)
        )
    return model
