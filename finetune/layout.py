"""Where each tensor of a base belongs in the text-only class, and whether all of them are there.

Published are `model.language_model.*` and `lm_head.weight`, with the experts of a layer fused in three dimensions;
transformers may write `model.*` instead, and one tensor an expert. All of these are read.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import ArtifactError
from finetune.shards import Stored, refetch

PUBLISHED = "model.language_model."

FLOATS = ("F64", "F32", "F16", "BF16")
"""Dtypes on disk that become the plan's by a plain cast."""

_EXPERT = re.compile(r"(.+\.mlp\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")


@dataclass(frozen=True)
class Part:
    """Rows of a weight of the model; all of them, unless it is one of several tensors that are fused in it."""

    name: str
    """As the text-only class names its parameter."""
    first: int
    """Of its rows, all dimensions but the last counted together."""


def match(folder: Path, tensors: Iterable[Stored], wanted: Mapping[str, tuple[int, ...]]) -> dict[Stored, Part]:
    """Finds the place of every tensor before any is read.

    Args:
        folder: of the base, for the errors.
        tensors: of the text model, as they lie on disk.
        wanted: the parameters of the text-only class and their shapes; of tied ones only the first.

    Raises:
        ArtifactError: tensors are missing, superfluous, stored twice, or of another shape or kind than they should be.
    """
    parts: dict[Stored, Part] = {}
    rows: Counter[str] = Counter()
    wrong, strange = [], []
    for tensor in tensors:
        if tensor.dtype not in FLOATS:
            raise _quantised_already(tensor)
        part, shape = _place(tensor.name, wanted)
        if shape is None:
            strange.append(tensor.name)
        elif shape != tensor.shape:
            wrong.append(f"{part.name}: it is {tensor.shape} and should be {shape}")
        else:
            parts[tensor] = part
        rows[part.name] += max(tensor.num_rows, 1)  # what is empty is there, and of another shape
    missing = [name for name in wanted if not rows[name]]
    partly = [name for name, shape in wanted.items() if rows[name] and rows[name] != math.prod(shape[:-1])]
    if missing or wrong or partly:
        absent = sorted([*missing, *wrong, *([] if wrong else partly)])
        raise ArtifactError(
            "the base lacks weights that its config asks for",
            where=str(folder),
            why=f"{len(absent)} of them, first {absent[0]}",
            fix=refetch(folder),
        )
    if strange:
        raise _no_place(folder, sorted(strange), wanted)
    return parts


def is_published(tensors: Iterable[Stored]) -> bool:
    """Tells whether the tensors have their published names, and not those of the text-only class."""
    return any(tensor.name.startswith(PUBLISHED) for tensor in tensors)


def _place(name: str, wanted: Mapping[str, tuple[int, ...]]) -> tuple[Part, tuple[int, ...] | None]:
    """Gives a tensor's place and the shape that it must have; no shape if there is no such place."""
    name = "model." + name.removeprefix(PUBLISHED) if name.startswith(PUBLISHED) else name
    if name in wanted or (found := _EXPERT.fullmatch(name)) is None:
        return Part(name, 0), wanted.get(name)
    block, number, kind = found[1], int(found[2]), found[3]
    fused = f"{block}.down_proj" if kind == "down" else f"{block}.gate_up_proj"
    if fused not in wanted or number >= wanted[fused][0]:
        return Part(name, 0), None
    _, high, width = wanted[fused]  # (expert, hidden, intermediate), or (expert, 2 * intermediate, hidden): gate, up
    if kind == "down":
        return Part(fused, number * high), (high, width)
    return Part(fused, number * high + (high // 2 if kind == "up" else 0)), (high // 2, width)


def _quantised_already(tensor: Stored) -> ArtifactError:
    return ArtifactError(
        "the base is quantised already",
        where=str(tensor.file),
        why=f"{tensor.name} is stored as {tensor.dtype}; weights can be loaded from {', '.join(FLOATS)}",
        fix="take the release in bf16: quantising is done here",
    )


def _no_place(folder: Path, strange: list[str], wanted: Mapping[str, tuple[int, ...]]) -> ArtifactError:
    tied = strange == ["lm_head.weight"] and "lm_head.weight" not in wanted
    return ArtifactError(
        "the base holds weights that its config has no place for",
        where=str(folder / "config.json") if tied else str(folder),
        why=f"{len(strange)} of them, first {strange[0]}" + ("; the config ties it to the embedding" if tied else ""),
        fix="tie_word_embeddings: false, in text_config and outside it" if tied else refetch(folder),
    )
