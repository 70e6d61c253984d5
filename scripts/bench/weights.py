"""A model of random weights with the real one's exact bytes, made matrix by matrix, and its levers pulled in place.

The linear layers and the adapters are the same under every lever, so they are made once; the vocabulary's two matrices
wait on the host and are put where a set of levers wants them.
"""

from __future__ import annotations

import gc
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from torch import nn

from bench.bases import Base
from finetune.levers import Levers
from finetune.model import HostCheckpoints, HostEmbedding, QuantisedHead, causal_of, recompute
from finetune.model.experts import experts_of, replace_experts
from finetune.model.nf4 import quantiser
from finetune.model.skeleton import complete, device_of, make_skeleton, pull
from finetune.plan import Plan

DEVIATION = 0.02
"""Of a fresh weight: initializer_range of the published configs."""

HEAD_DEVIATION = 0.1
"""Of a fresh logit. So small that the first loss is that of guessing, ln(vocabulary), which shows that all is wired."""

ADAPTER_DEVIATION = 0.01
"""Of both factors of an adapter: a fresh lora_B is zero, and lora_A would have no gradient to compare."""


@dataclass(frozen=True)
class Vocabulary:
    """Both matrices, (tokens, hidden), on the host."""

    embedding: torch.Tensor
    head: torch.Tensor


def make_model(base: Base, plan: Plan, seed: int) -> tuple[Any, Vocabulary]:
    """Makes the text model on the plan's device, no more than one matrix of it unquantised at a time."""
    torch.manual_seed(seed)
    model, dtype, device = make_skeleton(base.folder, plan), getattr(torch, plan.dtype), device_of(plan)
    replace_experts(model, nf4=plan.quantisation is not None, dtype=dtype, device=device)
    for experts in experts_of(model).values():
        for stack in experts.stacks.values():
            shape = (stack.out_features, stack.in_features)
            for expert in range(experts.num_experts):
                stack.fill(expert * shape[0], torch.randn(shape, dtype=dtype, device=device) * DEVIATION)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    small = [module for module in model.modules() if module not in (embedding, head)]
    for module in small:
        if isinstance(module, Linear4bit):
            rows = torch.randn(module.weight.shape, dtype=dtype, device=device) * DEVIATION
            quantiser(module, dtype, device)(0, rows)
    _draw(model, [module for module in small if not isinstance(module, Linear4bit)], device)
    # nothing of the vocabulary is on the device until levers say so
    shape, scale = embedding.weight.shape, HEAD_DEVIATION / math.sqrt(embedding.weight.shape[1])
    vocabulary = Vocabulary(_on_host(shape, dtype, device, DEVIATION), _on_host(shape, dtype, device, scale))
    _place(embedding, vocabulary.embedding, torch.device("cpu"))
    _place(head, vocabulary.head, torch.device("cpu"))
    complete(model, base.folder, plan, published=False)
    return model.requires_grad_(False), vocabulary


def _draw(model: Any, modules: list[nn.Module], device: torch.device) -> None:
    """Fills the modules' own parameters as transformers does: norms, decays, convolutions, small linears, routers.

    All are there before any is filled, since a block draws its router's. What nobody fills stays NaN, and is noticed.
    """
    filled = []
    for module in modules:
        for name, parameter in module.named_parameters(recurse=False):
            empty = torch.full(parameter.shape, math.nan, dtype=parameter.dtype, device=device)
            module.register_parameter(name, nn.Parameter(empty))
            filled.append(module.get_parameter(name))
    for module in modules:
        model._init_weights(module)
    assert not any(bool(parameter.isnan().any()) for parameter in filled), "transformers leaves a parameter unfilled"


def _on_host(shape: torch.Size, dtype: torch.dtype, device: torch.device, deviation: float) -> torch.Tensor:
    """Draws a matrix on the device, a piece at a time, and keeps it on the host."""
    matrix = torch.empty(shape, dtype=dtype)
    for rows in matrix.split(16_384):
        rows.copy_(torch.randn(rows.shape, dtype=dtype, device=device) * deviation)
    return matrix


def _place(module: Any, weight: torch.Tensor, device: torch.device) -> None:
    module.weight = nn.Parameter(weight.to(device), requires_grad=False)


def pull_levers(model: Any, plan: Plan, levers: Levers, vocabulary: Vocabulary) -> HostCheckpoints | None:
    """Puts the vocabulary where the levers want it, and has layers recomputed as they say; undoes the levers before.

    Returns:
        What keeps the inputs of layers on the host, if that is where they go.
    """
    causal, device = causal_of(model), device_of(plan)
    rows, width = vocabulary.head.shape
    with torch.device("meta"):  # the old ones go before the new ones come
        causal.set_input_embeddings(nn.Embedding(rows, width))
        causal.lm_head = nn.Linear(width, rows, bias=False)
    clean()
    pull(causal, replace(plan, choices=replace(plan.choices, **asdict(levers))))
    embedding, head = causal.get_input_embeddings(), causal.lm_head
    if isinstance(embedding, HostEmbedding):
        embedding.weight.copy_(vocabulary.embedding)
    else:
        _place(embedding, vocabulary.embedding, device)
    if isinstance(head, QuantisedHead):
        for start in range(0, rows, head.tile):
            head.fill(start, vocabulary.head[start : start + head.tile].to(device))
    else:
        _place(head, vocabulary.head, device)
    let_layers_be(model)
    host = recompute(model, levers)
    model.train()
    return host


def let_layers_be(model: Any) -> None:
    """Takes the recomputation off all layers."""
    for layer in causal_of(model).model.layers:
        for name in ("forward", "_gradient_checkpointing_func"):  # the latter would keep what it kept on the host
            layer.__dict__.pop(name, None)
        layer.gradient_checkpointing = False


def trained_of(model: Any) -> dict[str, nn.Parameter]:
    """Gives the trained parameters by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def redraw_adapters(model: Any, seed: int) -> None:
    """Gives every adapter the same new numbers each time, exact in bfloat16 and float32 alike, and no gradient."""
    for number, parameter in enumerate(trained_of(model).values()):
        draw = torch.Generator(parameter.device).manual_seed(seed + number)
        fresh = torch.randn(parameter.shape, generator=draw, device=parameter.device) * ADAPTER_DEVIATION
        parameter.data = fresh.bfloat16().float()
        parameter.grad = None


def clean() -> None:
    """Gives up what nobody holds any more, and PyTorch's hold on its memory too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
