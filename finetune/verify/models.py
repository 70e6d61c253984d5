"""A whole model in a folder, as transformers, vLLM and SGLang load it: shards, index, config and what goes along."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from finetune.merge.order import files_along
from finetune.merge.weights import Weights
from finetune.model.streaming import DTYPES, stream
from finetune.run import Claim, atomic, claim
from finetune.shards import check_index, read_json

CLASSES = ("Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration")
"""Under which vLLM and SGLang serve these models; a text-only class would be refused by some versions.

Source, read and not run: vllm/model_executor/models/qwen3_5.py and sglang/srt/models/qwen3_5.py.
"""


Place = tuple[str, tuple[int, ...], str]
"""A tensor's dtype, shape, and the name of its file."""


def check_model(folder: Path, base: Path | None, progress: Callable[[str, int, int], None]) -> Iterator[Claim]:
    """Compares a folder with its base's index, or with its own config where no base is known.

    Args:
        folder: of the model.
        base: whose names, dtypes and shapes it should have.
        progress: is told how many bytes were read.

    Raises:
        ArtifactError: a shard is damaged, or the shards are not those of config or index.
    """
    config = read_json(folder / "config.json", "the model's config")
    names = config.get("architectures") or ["none"]
    served = str(names[0] if isinstance(names, list) else names)
    yield claim("the class that vLLM and SGLang serve", served, holds=isinstance(names, list) and served in CLASSES)
    quantised = "quantization_config" in config
    yield claim("weights are not quantised, as converters want them", not quantised, holds=not quantised)
    weights = Weights(folder)
    yield claim("weights of the text model, each in its shape", len(weights.parameters))
    check_index(folder, weights.tensors)
    yield claim("tensors where the index says", len(weights.tensors))
    found = {tensor.name: (tensor.dtype, tensor.shape, tensor.file.name) for tensor in weights.tensors}
    if base is None:
        yield from _as_told(config, found.keys())
    else:
        yield _same_tensors(found, {t.name: (t.dtype, t.shape, t.file.name) for t in Weights(base).tensors})
        yield from _same_files(folder, base)
    yield _finite(weights, progress)


def _as_told(config: dict[str, Any], names: Iterable[str]) -> Iterator[Claim]:
    """Compares what a config tells of beside the text model with what there is: a merge by others often loses it."""
    text = config.get("text_config", config)
    for part, told in (("mtp", bool(text.get("mtp_num_hidden_layers"))), ("visual", "vision_config" in config)):
        there = sum(f"{part}." in name for name in names)
        does = "tells of" if told else "does not tell of"
        yield claim(f"tensors of {part}, which the config {does}", there, holds=bool(there) == told)


def _same_tensors(found: dict[str, Place], wished: dict[str, Place]) -> Claim:
    away = sorted(name for name in wished.keys() | found.keys() if wished.get(name) != found.get(name))
    told = f"{len(away)} differ, first {away[0]}" if away else len(wished)
    return claim("tensors of the base, by name, dtype, shape and shard", told, holds=not away)


def _same_files(folder: Path, base: Path) -> Iterator[Claim]:
    """Compares configs, tokenizer and templates, which are the base's own byte for byte."""
    files = files_along(base)
    away = [file.name for file in files if not _is_same(file, folder / file.name)]
    told = f"not {', '.join(away)}" if away else len(files)
    yield claim("configs, tokenizer and template, the base's byte for byte", told, holds=not away)


def _is_same(file: Path, other: Path) -> bool:
    return other.is_file() and atomic.sha256(file) == atomic.sha256(other)


def _finite(weights: Weights, progress: Callable[[str, int, int], None]) -> Claim:
    """Reads every number once."""
    floats = [tensor for tensor in weights.tensors if DTYPES[tensor.dtype].is_floating_point]
    done, whole, wrong = 0, sum(tensor.num_bytes for tensor in floats), set[str]()
    for piece in stream(floats, lambda _: torch.device("cpu")):
        if not torch.isfinite(piece.rows).all():
            wrong.add(piece.tensor.name)
        done += piece.rows.nbytes
        progress("reading", done, whole)
    told = f"not {len(wrong)} tensors, first {min(wrong)}" if wrong else len(floats)
    return claim("tensors whose numbers are all finite", told, holds=not wrong)
