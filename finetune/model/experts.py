"""Puts our routed experts where transformers' were, and their adapters into the two files that plain PEFT reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.constants import DUMMY_TARGET_MODULES
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeExperts

from finetune.experts import WEIGHTS, Exchange, RoutedExperts
from finetune.experts.layouts import from_peft, to_peft

TARGETS = [f"mlp.experts.{name}" for name in WEIGHTS]
"""As PEFT's `target_parameters` names them."""


def replace_experts(
    model: Any, *, nf4: bool, dtype: torch.dtype, device: torch.device, exchange: Exchange | None = None
) -> None:
    """Replaces the routed experts of a text model by ours, frozen and still without their weights.

    Args:
        model: on the meta device.
        nf4: whether they are held in 4 bits.
        dtype: of the arithmetic.
        device: where they will lie.
        exchange: with the processes that hold the others; without one all are held here.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, Qwen3_5MoeExperts):
            ours = RoutedExperts(
                num_experts=module.num_experts,
                hidden=module.hidden_dim,
                intermediate=module.intermediate_dim,
                activation=module.act_fn,
                nf4=nf4,
                dtype=dtype,
                device=device,
                exchange=exchange,
            )
            model.set_submodule(name, ours)


def experts_of(model: Any) -> dict[str, RoutedExperts]:
    """Lists a model's routed experts by their names in it."""
    return {name: module for name, module in model.named_modules() if isinstance(module, RoutedExperts)}


def add_expert_adapters(model: Any, config: LoraConfig, *, rank: int, alpha: float, dropout: float) -> None:
    """Gives all routed experts of a model fresh adapters, scaled as PEFT scales those of such a config."""
    scaling = alpha / (math.sqrt(rank) if config.use_rslora else rank)
    for experts in experts_of(model).values():
        experts.add_adapters(rank=rank, scaling=scaling, dropout=dropout)


def with_experts(config: LoraConfig, rank: int, alpha: float) -> dict[str, Any]:
    """Gives the entries that PEFT's config has besides, when experts have adapters.

    Dropout is 0 there whatever was used: PEFT refuses another one beside target_parameters.
    """
    return {
        "target_modules": [] if config.target_modules == DUMMY_TARGET_MODULES else config.target_modules,
        "target_parameters": TARGETS,
        "rank_pattern": dict.fromkeys(TARGETS, rank),
        "alpha_pattern": dict.fromkeys(TARGETS, alpha),
        "lora_dropout": 0.0,
    }


def without_experts(config: LoraConfig) -> tuple[int, float]:
    """Takes those entries out of a config, in place; gives the rank and alpha that stood there, 0 if none did."""
    if not config.target_parameters:
        return 0, 0.0
    rank, alpha = config.rank_pattern[TARGETS[0]], config.alpha_pattern[TARGETS[0]]
    config.target_parameters, config.rank_pattern, config.alpha_pattern = None, {}, {}
    config.target_modules = config.target_modules or DUMMY_TARGET_MODULES
    return rank, alpha


def expert_tensors(model: Any) -> dict[str, torch.Tensor]:
    """Gives the tensors of the experts' adapters as plain PEFT names and lays them out."""
    written: dict[str, torch.Tensor] = {}
    for name, experts in experts_of(model).items():
        adapters = {each: (lora.lora_A.detach(), lora.lora_B.detach()) for each, lora in experts.adapters.items()}
        written |= to_peft(name, adapters) if adapters else {}
    return written


def set_expert_tensors(model: Any, written: Mapping[str, torch.Tensor]) -> None:
    """Puts what `expert_tensors` gave into the adapters that the experts have.

    Raises:
        KeyError: a tensor is missing.
    """
    for name, experts in experts_of(model).items():
        if experts.adapters:
            for each, (a, b) in from_peft(name, written, experts.num_experts).items():
                experts.adapters[each].lora_A.data.copy_(a)
                experts.adapters[each].lora_B.data.copy_(b)
