"""An adapter, as plain PEFT reads it or as vLLM does: every tensor has a place in the base, and its shape."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from finetune.architecture import read_architecture
from finetune.errors import ArtifactError
from finetune.experts.layouts import from_vllm, is_for_vllm
from finetune.merge.changes import Adapter, LowRank, OfExperts, experts_in
from finetune.model.adapter import CONFIG, WEIGHTS
from finetune.run import Claim, claim


def check_adapter(folder: Path, base: Path) -> Iterator[Claim]:
    """Compares an adapter with the base that it is for.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors.
        base: whose config is read.

    Raises:
        ArtifactError: it cannot be read, or part of it has no place in the base.
    """
    read_config(folder)
    parameters = read_architecture(base).parameters()
    num_experts = max(experts_in(name, parameters) for name in parameters)
    names = Adapter(folder).stored
    if not is_for_vllm(names):
        yield claim("layout", "PEFT")
        yield from _check(Adapter(folder), parameters)
        return
    yield claim("layout", "vLLM")
    with TemporaryDirectory(prefix="finetune-") as staging:
        back = Path(staging)
        try:
            save_file(from_vllm(load_file(folder / WEIGHTS), num_experts), back / WEIGHTS)
        except (KeyError, ValueError) as error:
            raise ArtifactError("the adapter's experts are not whole", where=str(folder), why=str(error)) from error
        shutil.copy(folder / CONFIG, back / CONFIG)
        yield from _check(Adapter(back), parameters)


def read_config(folder: Path) -> dict[str, Any]:
    """Reads an adapter's config as what it should be at the least: an object, and one of alphas in it.

    Raises:
        ArtifactError: it is another kind of JSON, or none.
    """
    file = folder / CONFIG
    fix = f"put {CONFIG} back from a copy, or from where the adapter came from"
    try:
        told = json.loads(file.read_bytes())
        wrong = "" if isinstance(told, dict) else f"it holds a {type(told).__name__} and should hold an object"
    except (OSError, ValueError, RecursionError) as error:
        told, wrong = {}, f"{type(error).__name__}: {error}"
    if not wrong and not isinstance(told.get("alpha_pattern", {}), dict):
        wrong = f"its alpha_pattern is a {type(told['alpha_pattern']).__name__} and should be an object"
    if wrong:
        raise ArtifactError("the adapter's config cannot be read", where=str(file), why=wrong, fix=fix)
    return dict(told)


def _check(adapter: Adapter, parameters: dict[str, tuple[int, ...]]) -> Iterator[Claim]:
    changed = sorted(adapter.place(parameters))
    yield claim("tensors that have a place in the base", len(adapter.stored))
    shapes, numbers, ranks, idle = list[str](), list[str](), set[int](), 0
    for name in changed:
        change = adapter.change(name, experts_in(name, parameters))
        parts = [change.a, change.b] if isinstance(change, LowRank | OfExperts) else [change.weight]  # type: ignore[attr-defined]
        if not all(bool(torch.isfinite(part).all()) for part in parts):
            numbers.append(name)
        made = tuple(parts[0].shape)
        if isinstance(change, LowRank | OfExperts):
            made = (*change.a.shape[:-2], change.b.shape[-2], change.a.shape[-1])
            ranks.add(change.a.shape[-2])
            idle += not change.b.any()
        if made != parameters[name] or (len(parts) == 2 and parts[0].shape[-2] != parts[1].shape[-1]):
            shapes.append(name)
    yield claim("weights changed, each in the base's shape", _or_first(shapes, len(changed)), holds=not shapes)
    yield claim("whose numbers are all finite", _or_first(numbers, len(changed)), holds=not numbers)
    yield claim("ranks", ", ".join(map(str, sorted(ranks))))
    yield claim("of which change nothing, their B being zero", idle, holds=idle < len(changed))
    told = json.dumps({key: adapter.config[key] for key in ("lora_alpha", "use_rslora", "use_dora")})
    yield claim("scale", told)


def _or_first(wrong: list[str], count: int) -> str | int:
    return f"not {len(wrong)}, first {wrong[0]}" if wrong else count
