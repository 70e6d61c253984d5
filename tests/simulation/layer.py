"""Runs one real decoder layer of transformers, with PEFT's adapters on 4-bit weights, on tensors without data."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, Qwen3_5MoeTextConfig, Qwen3_5TextConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen3_5 import modeling_qwen3_5
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe

from finetune.memory.widths import Widths
from finetune.shape import FAMILY_MODULES
from simulation import kernels as cuda
from simulation.storages import Born, Storages, fake

QUANTISED = re.compile(
    r"model\.layers\.\d+\.(linear_attn\.(in_proj_qkv|in_proj_z|out_proj)|self_attn\.\w+|mlp\.(shared_expert\.)?\w+_proj)"
)
MODELLING = (modeling_qwen3_5, modeling_qwen3_5_moe)
ALL_ATTENTION_FUNCTIONS.register("simulated", cuda.flash_attention)


@dataclass(frozen=True)
class Peak:
    """The most bytes that lived during one layer's backward, beside its weights, its input and its output."""

    num_bytes: int
    alive: list[Born]


def config_of(widths: Widths) -> Any:
    """Describes four layers of a base: three of Gated DeltaNet and one of attention."""
    told: dict[str, Any] = {
        "vocab_size": 1024,
        "hidden_size": widths.hidden,
        "num_hidden_layers": 4,
        "num_attention_heads": widths.query // widths.attention_head,
        "num_key_value_heads": widths.key_value // widths.attention_head,
        "head_dim": widths.attention_head,
        "linear_num_key_heads": widths.key // widths.head,
        "linear_num_value_heads": widths.value_heads,
        "linear_key_head_dim": widths.head,
        "linear_value_head_dim": widths.head,
    }
    if not widths.num_experts:
        return Qwen3_5TextConfig(**told, intermediate_size=widths.feed_forward)
    told |= {"num_experts": widths.num_experts, "num_experts_per_tok": widths.experts_per_token}
    told |= {"moe_intermediate_size": widths.expert, "shared_expert_intermediate_size": widths.feed_forward}
    return Qwen3_5MoeTextConfig(**told)


def build(widths: Widths, *, rank: int, nf4: bool = True) -> Any:
    """Makes four layers with adapters on every linear layer that a recipe may target; tensors hold no data.

    Call it inside `fake()`; gradients are there already, as in every step but the first.
    """
    with torch.device("meta"):
        config = config_of(widths)
        config._attn_implementation = "simulated"
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        for name, module in list(model.named_modules()):
            if nf4 and type(module) is nn.Linear and QUANTISED.fullmatch(name):
                parent, _, leaf = name.rpartition(".")
                setattr(model.get_submodule(parent), leaf, cuda.Linear4bit(module))
        model.is_loaded_in_4bit = nf4
        targets = [module for _, modules in FAMILY_MODULES.values() for module in modules]
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=rank, target_modules=targets))
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False
        for name, parameter in module._parameters.items():
            if parameter is not None:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                module._parameters[name] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    return model.get_base_model().train()


@contextmanager
def kernels_of(fast: bool) -> Any:
    """Puts the CUDA kernels' allocations in the place of transformers' torch reference, or leaves the reference."""
    names = {"torch_chunk_gated_delta_rule": cuda.chunk_gated_delta_rule, "causal_conv1d_fn": cuda.causal_conv1d}
    before = {module: {name: getattr(module, name) for name in names} for module in MODELLING}
    for module in MODELLING if fast else ():
        for name, function in names.items():
            setattr(module, name, function)
    try:
        yield
    finally:
        for module, functions in before.items():
            for name, function in functions.items():
                setattr(module, name, function)


def layer_peak(widths: Widths, *, kind: str, tokens: int, rank: int, fast: bool, recompute: str, nf4: bool = True) -> Peak:
    """Runs one layer forward and backward under activation checkpointing and watches every storage.

    Args:
        widths: of the base.
        kind: "linear_attn" or "self_attn".
        tokens: of one example.
        rank: of the adapters.
        fast: whether fla and causal_conv1d stand in for the torch reference.
        recompute: "layer", or "mixer" or "mlp" for one half.
        nf4: whether the linear layers are in 4 bits.
    """
    with fake(), kernels_of(fast):
        model = build(widths, rank=rank, nf4=nf4)
        layer = next(each for each in model.model.layers if hasattr(each, kind))
        hidden = torch.empty(1, tokens, widths.hidden, dtype=torch.bfloat16, requires_grad=True)
        positions = torch.arange(tokens).view(1, 1, -1).expand(3, 1, -1)
        rotary = model.model.rotary_emb(hidden, positions)
        watch = Storages()
        watch.static = {StorageWeakRef(t.untyped_storage()) for t in [*model.parameters(), *model.buffers(), hidden, *rotary]}
        watch.static |= {StorageWeakRef(p.grad.untyped_storage()) for p in model.parameters() if p.grad is not None}
        with watch, as_on_cuda():
            with torch.autocast("cpu", dtype=torch.bfloat16):
                out = checkpoint(_piece(layer, kind, rotary, recompute), hidden, use_reentrant=False)
            watch.forget(out)
            out.backward(torch.empty_like(out))
        return Peak(watch.peak, watch.at_peak)


@contextmanager
def as_on_cuda() -> Any:
    """Lets PEFT see the autocast that a GPU would have, in the recomputed forward too."""
    torch.set_autocast_enabled("cuda", True)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)


def _piece(layer: Any, kind: str, rotary: Any, recompute: str) -> Callable[[torch.Tensor], torch.Tensor]:
    def mixer(hidden: torch.Tensor) -> torch.Tensor:
        normed = layer.input_layernorm(hidden)
        if kind == "linear_attn":
            return hidden + layer.linear_attn(hidden_states=normed)
        return hidden + layer.self_attn(hidden_states=normed, position_embeddings=rotary, attention_mask=None)[0]

    def feed_forward(hidden: torch.Tensor) -> torch.Tensor:
        return hidden + layer.mlp(layer.post_attention_layernorm(hidden))

    pieces = {"mixer": mixer, "mlp": feed_forward, "layer": lambda hidden: layer(hidden, position_embeddings=rotary)}
    return pieces[recompute]
