"""Puts a quantised base from the cache into a model, every byte checked on its way."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from torch import nn

from finetune.errors import ArtifactError
from finetune.model.cache import passport
from finetune.model.streaming import DTYPES, stream
from finetune.shards import Stored, list_tensors


def restore(model: Any, entry: Path, device: torch.device, progress: Callable[[int, int], None]) -> str:
    """Fills a model with what its cache holds.

    Args:
        model: with its weights on the meta device, save those that a lever has put in their place.
        entry: the cache, found under the model's own settings.
        device: where all but those shall lie.
        progress: is told the bytes read, and those to read in all.

    Returns:
        What is damaged; nothing if the model is complete. It must not be used if it is not.
    """
    files = passport(entry)["files"]
    held = {name: tensor for name, tensor in model.state_dict().items() if tensor.device.type != "meta"}
    checksums = dict.fromkeys(files, 0)

    def check(tensor: Stored, data: memoryview) -> None:
        checksums[tensor.file.name] = zlib.crc32(data, checksums[tensor.file.name])

    try:
        tensors = list_tensors(entry / name for name in sorted(files))
        for tensor in tensors:
            if tensor.name not in held:
                on = "cpu" if _is_text(tensor.name) else device
                held[tensor.name] = torch.empty(tensor.shape, dtype=DTYPES[tensor.dtype], device=on)
        done, whole = 0, sum(tensor.num_bytes for tensor in tensors)
        for piece in stream(tensors, lambda tensor: held[tensor.name].device, read=check):
            rows = held[piece.tensor.name].view(-1, piece.tensor.width)
            rows[piece.first : piece.first + len(piece.rows)].copy_(piece.rows)
            done += piece.rows.numel() * piece.rows.element_size()
            progress(done, whole)
    except (ArtifactError, OSError) as error:
        return str(error).splitlines()[0]
    damaged = [name for name in files if checksums[name] != files[name]["data_crc32"]]
    if damaged:
        return f"{damaged[0]} is damaged"
    _set(model, held, device)
    return ""


def _is_text(name: str) -> bool:
    """Tells the one tensor of a quantised weight that is JSON, which bitsandbytes reads on the host."""
    return ".weight.quant_state." in name


def _set(model: Any, held: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Gives every module what belongs to it."""
    statistics: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for name, tensor in held.items():
        path, _, part = name.partition(".weight.")
        if part:
            statistics[path][part] = tensor
    for name, parameter in list(model.named_parameters()):
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        if isinstance(module, Linear4bit):
            module.weight = Params4bit.from_prequantized(
                held[name], statistics[path], requires_grad=False, device=device, module=module
            )
        elif parameter.device.type == "meta":
            setattr(module, leaf, nn.Parameter(held[name]))
