"""Loads a base as its text-only class, in 4 bits where the plan says so, with little more memory than it ends up in.

A weight travels from its shard through one small buffer to the device, and is quantised there before the next one is
read. Vision and multi-token prediction stay on disk. No vocabulary matrix is ever cast up: peft's
prepare_model_for_kbit_training, which would, is not called.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from torch import nn

from finetune.architecture import read_architecture
from finetune.errors import ArtifactError
from finetune.experts import Exchange, NF4Stack, PlainStack, RoutedExperts
from finetune.layout import Part, is_published, match
from finetune.memory.weights import BLOCK
from finetune.model import cache as caching
from finetune.model.embeddings import HostEmbedding
from finetune.model.experts import experts_of
from finetune.model.head import QuantisedHead
from finetune.model.nf4 import Fill, quantiser
from finetune.model.restoring import restore
from finetune.model.skeleton import complete, device_of, make_skeleton, pull
from finetune.model.streaming import PIECE_BYTES, stream
from finetune.plan import Plan
from finetune.shape import is_text
from finetune.shards import Stored, list_tensors, shards

Progress = Callable[[int, int], None]
"""Is told the bytes read so far, and those to read in all."""


def load_base(
    folder: Path,
    plan: Plan,
    *,
    cache: Path | None = None,
    exchange: Exchange | None = None,
    progress: Progress = lambda done, whole: None,
    say: Callable[[str], None] = lambda line: None,
) -> Any:
    """Loads the text model of a base.

    Args:
        folder: of the base.
        plan: says what is quantised, where everything lies, and in which dtype.
        cache: the folder in which quantised bases are kept for the next start; none is kept where none is given, or
            where the plan quantises nothing and a cache would only be a copy.
        exchange: with the processes that hold the other routed experts; what is held here alone is not cached.
        progress: is told after each piece.
        say: takes a line for the user, about the cache.

    Raises:
        ArtifactError: weights are missing, damaged, or not those of the base's config.
    """
    if quantised_by := read_architecture(folder).quantised_by:
        raise ArtifactError(
            "the base is quantised already",
            where=str(folder / "config.json"),
            why=f"its quantization_config names {quantised_by}",
            fix="take the release in bf16: quantising is done here",
        )
    if cache is None or plan.quantisation is None or exchange is not None:
        return _from_shards(folder, plan, exchange, progress)
    made_from = caching.ingredients(folder, plan)
    entry = caching.find(cache, made_from, say)
    if entry is not None:
        model = make_skeleton(folder, plan)
        pull(model, plan)
        wrong = restore(model, entry, device_of(plan), progress)
        if not wrong:
            complete(model, folder, plan, published=True)
            return model
        del model  # and its memory, before it is taken once more
        caching.discard(entry, wrong, say)
    model = _from_shards(folder, plan, None, progress)
    caching.keep(model, cache, made_from, say)
    return model


def _from_shards(folder: Path, plan: Plan, exchange: Exchange | None, progress: Progress) -> Any:
    """Loads the base as it was published."""
    model = make_skeleton(folder, plan)
    tensors = [tensor for tensor in list_tensors(shards(folder)) if is_text(tensor.name)]
    parts = match(folder, tensors, {name: tuple(p.shape) for name, p in model.named_parameters()})
    published = is_published(tensors)
    pull(model, plan, exchange)
    parts = _held(parts, model)
    tensors = list(parts)
    modules = {t: model.get_submodule(part.name.rpartition(".")[0]) for t, part in parts.items()}

    def where(tensor: Stored) -> torch.device:
        return torch.device("cpu") if isinstance(modules[tensor], HostEmbedding) else device_of(plan)

    fill: Fill
    done, whole = 0, sum(tensor.num_bytes for tensor in tensors)
    for piece in stream(tensors, where, together=lambda tensor: _together(modules[tensor], tensor.width)):
        part = parts[piece.tensor]
        if piece.first == 0:
            fill = _place(modules[piece.tensor], part.name.rpartition(".")[2], plan)
        fill(part.first + piece.first, piece.rows)
        done += piece.rows.numel() * piece.rows.element_size()
        progress(done, whole)
    complete(model, folder, plan, published=published)
    return model


def _held(parts: dict[Stored, Part], model: Any) -> dict[Stored, Part]:
    """Leaves out the routed experts that other processes hold: whole tensors, or rows of a fused one."""
    held: dict[Stored, Part] = {}
    for tensor, part in parts.items():
        block, _, leaf = part.name.rpartition(".")
        module = model.get_submodule(block)
        if not isinstance(module, RoutedExperts):
            held[tensor] = part
            continue
        high = module.stacks[leaf].out_features
        first, last = module.first * high, (module.first + module.num_held) * high
        if part.first == 0 and tensor.num_rows == module.num_experts * high:
            some = (module.num_held, high, tensor.width)
            held[replace(tensor, shape=some, start=tensor.start + first * tensor.row_bytes)] = part
        elif first <= part.first < last:
            held[tensor] = replace(part, first=part.first - first)
    return held


def _together(module: Any, width: int) -> int:
    """Tells how many rows of a weight have to come together: those that share a scale."""
    if isinstance(module, QuantisedHead):
        return module.tile
    if isinstance(module, Linear4bit):
        block = int(module.weight.blocksize)
        return block // math.gcd(width, block)
    if isinstance(module, RoutedExperts):
        return BLOCK // math.gcd(width, BLOCK)
    return 1


def _place(module: Any, leaf: str, plan: Plan) -> Fill:
    """Gives the function that takes the rows of a weight in order and leaves it in its module."""
    dtype, device = getattr(torch, plan.dtype), device_of(plan)
    if isinstance(module, Linear4bit):
        return quantiser(module, dtype, device)
    if isinstance(module, RoutedExperts):
        return module.stacks[leaf].fill
    if isinstance(module, QuantisedHead):
        return lambda first, rows: module.fill(first, rows.to(dtype))
    if getattr(module, leaf).device.type == "meta":
        setattr(module, leaf, nn.Parameter(torch.empty(getattr(module, leaf).shape, dtype=dtype, device=device)))
    weight = getattr(module, leaf).detach()
    target = weight.view(-1, weight.shape[-1])

    def fill(first: int, rows: torch.Tensor) -> None:
        target[first : first + len(rows)].copy_(rows)

    return fill


def bytes_by_dtype(model: Any) -> dict[str, int]:
    """Adds up the bytes that the parameters hold, by dtype; 4-bit weights count as the uint8 they are stored in.

    An embedding on the host, a quantised head and routed experts have no parameters: what they hold is counted too.
    """
    held: Counter[str] = Counter()
    kinds = (HostEmbedding, QuantisedHead, NF4Stack, PlainStack)
    levers = [module for module in model.modules() if isinstance(module, kinds)]
    for tensor in [*model.parameters(), *(tensor for lever in levers for tensor in lever.state_dict().values())]:
        held[str(tensor.dtype).removeprefix("torch.")] += tensor.numel() * tensor.element_size()
    return dict(sorted(held.items()))


def frozen_sha256(model: Any, gather: Callable[[list[str]], list[list[str]]] = lambda lines: [lines]) -> str:
    """Identifies the weights that are not trained, every bit of them, as they lie in memory after quantisation.

    Each tensor is hashed on a thread of its own: one core hashes about a gigabyte a second, and the 27B has many.
    Routed experts are hashed one by one, so the result does not depend on which process holds which.

    Args:
        model: the text model, adapted or not.
        gather: gives what every process tells, of what this one tells.
    """
    first = {f"{block}.{name}.": e.first for block, e in experts_of(model).items() for name in ("gate_up", "down")}
    named: list[tuple[str, torch.Tensor]] = []
    for name, tensor in model.state_dict(keep_vars=True).items():
        stack = name.rpartition(".")[0] + "."
        if stack in first:
            named += [(f"{name}[{number}]", of_expert) for number, of_expert in enumerate(tensor, first[stack])]
        elif not tensor.requires_grad:
            named.append((name, tensor))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        told = gather(list(threads.map(_sha256, named)))
    return hashlib.sha256("\n".join(sorted(set().union(*told))).encode()).hexdigest()


def _sha256(named: tuple[str, Any]) -> str:
    name, tensor = named
    digest = hashlib.sha256()
    whole = tensor.detach().contiguous().flatten().view(torch.uint8)
    for piece in whole.split(PIECE_BYTES):  # so that no matrix comes to the host
        digest.update(piece.cpu().numpy())
    return f"{name} {tensor.dtype} {tuple(tensor.shape)} {digest.hexdigest()}"


def kernels(device: str) -> dict[str, str]:
    """Says which code runs the Gated DeltaNet: the fast kernels, or transformers' torch reference.

    Source: transformers 5.23, modeling_qwen3_5.py and integrations/hub_kernels.py; both packages are needed.
    """
    wanted = {"gated_delta_rule": "fla", "causal_conv1d": "causal_conv1d"}
    fast = device == "cuda"
    return {
        name: package if fast and importlib.util.find_spec(package) is not None else "torch reference (slow)"
        for name, package in wanted.items()
    }
