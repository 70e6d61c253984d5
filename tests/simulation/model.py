"""Builds four real decoder layers, with PEFT's adapters and our routed experts, on tensors without data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import dora
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import AutoModelForCausalLM, Qwen3_5MoeTextConfig, Qwen3_5TextConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen3_5 import modeling_qwen3_5
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe

from finetune.experts import lora as expert_lora
from finetune.experts import routed, stacks
from finetune.levers import Levers
from finetune.memory import Widths, read_widths
from finetune.model import head, losses
from finetune.model.adapter import keep_bfloat16
from finetune.model.experts import add_expert_adapters, replace_experts
from finetune.shape import FAMILY_MODULES, read_shape
from simulation import kernels

PLAIN = Levers()

ALL_ATTENTION_FUNCTIONS.register("simulated", kernels.flash_attention)

QUANTISED = re.compile(
    r"model\.layers\.\d+\.(linear_attn\.(in_proj_qkv|in_proj_z|out_proj)|self_attn\.\w+|mlp\.(shared_expert\.)?\w+_proj)"
)


@dataclass(frozen=True)
class Setting:
    """One training, as far as its bytes depend on it. The weights of its layers are in bfloat16, or in NF4."""

    base: str
    tokens: int
    """Of each example."""
    levers: Levers = PLAIN
    kernels: bool = True
    """Whether fla runs Gated DeltaNet's rule."""
    convolution: bool = True
    """Whether causal_conv1d runs the convolution before it."""
    nf4: bool = True
    rank: int = 16
    """0: every weight is trained, in float32."""
    dropout: float = 0.0
    dora: bool = False
    micro_batch: int = 1

    @property
    def expert_rank(self) -> int:
        """Of the adapters of the routed experts; 0 for a base without any."""
        return -(-self.rank // self.widths.experts_per_token) if self.widths.num_experts else 0

    @property
    def widths(self) -> Widths:
        """Of the whole base."""
        return read_widths(read_shape(self.base, None))


@contextmanager
def on_cuda(setting: Setting) -> Iterator[None]:
    """Puts the CUDA kernels' allocations in the place of what a CPU would run, and lets PEFT see the GPU's autocast."""
    places: list[tuple[Any, str, Any]] = [
        (dora, "dequantize_module_weight", kernels.dequantised_module),
        (head.NF4Head, "_restore_tile", kernels.restore_nf4_tile),
        (losses, "_add_product", kernels.add_product),
        (routed, "sort_rows", kernels.sort_rows_evenly),
        (stacks, "_code", kernels.code),
        (expert_lora, "functional", kernels.Functional),
    ]
    for module in (modeling_qwen3_5, modeling_qwen3_5_moe):
        if setting.kernels:
            places.append((module, "torch_chunk_gated_delta_rule", kernels.chunk_gated_delta_rule))
        if setting.convolution:
            places.append((module, "causal_conv1d_fn", kernels.causal_conv1d))
    before = [getattr(place, name) for place, name, _ in places]
    for place, name, function in places:
        setattr(place, name, function)
    torch.set_autocast_enabled("cuda", True)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        for (place, name, _), function in zip(places, before, strict=True):
            setattr(place, name, function)


def build(setting: Setting) -> Any:
    """Makes four layers, three of Gated DeltaNet and one of attention, with adapters on every family.

    Call it inside `fake()`. Gradients are there already, as in every step but the first.
    """
    with torch.device("meta"):
        config = config_of(setting.widths)
        config._attn_implementation = "simulated"
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if setting.rank else torch.float32)
        for name, module in list(model.named_modules()):
            if setting.nf4 and type(module) is nn.Linear and QUANTISED.fullmatch(name):
                parent, _, leaf = name.rpartition(".")
                setattr(model.get_submodule(parent), leaf, kernels.Linear4bit(module))
        model.is_loaded_in_4bit = setting.nf4
        if setting.rank:
            replace_experts(model, nf4=setting.nf4, dtype=torch.bfloat16, device=torch.device("meta"))
            targets = [module for _, modules in FAMILY_MODULES.values() for module in modules]
            lora = LoraConfig(
                task_type="CAUSAL_LM",
                r=setting.rank,
                target_modules=targets,
                lora_dropout=setting.dropout,
                use_dora=setting.dora,
            )
            model = get_peft_model(model, lora).get_base_model()
            if rank := setting.expert_rank:
                add_expert_adapters(model, lora, rank=rank, alpha=rank, dropout=setting.dropout)
            keep_bfloat16(model)
    for module in model.modules():
        if isinstance(module, BaseTunerLayer) and setting.dropout:
            module.lora_dropout["default"] = kernels.Dropout(setting.dropout)
        take_off_meta(module)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    return model.train()


def config_of(widths: Widths) -> Any:
    """Describes four layers of a base."""
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


def take_off_meta(module: nn.Module) -> None:
    """Gives a module's tensors bytes that are counted, on what stands for the device."""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            empty = torch.empty(parameter.shape, dtype=parameter.dtype)
            module._parameters[name] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
