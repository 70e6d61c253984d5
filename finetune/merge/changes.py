"""What an adapter makes of each weight of its base, read from its file one layer at a time: it may be larger than RAM.

A change knows two things: what becomes of some rows of a weight, which merging writes, and what it adds beside a
product with the weight as it was, which is how training and plain PEFT compute. The proof compares the two.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from peft.utils.other import get_pattern_key

from finetune.errors import ArtifactError
from finetune.experts import WEIGHTS as EXPERT_WEIGHTS
from finetune.experts.layouts import Pair, from_peft
from finetune.model.adapter import CONFIG, ROUTER, WEIGHTS
from finetune.model.streaming import read_whole
from finetune.shards import list_tensors

CPU = torch.device("cpu")

PREFIX = "base_model.model."
"""Of every name in an adapter's file."""

OTHER_ARITHMETIC = ("fan_in_fan_out", "lora_bias", "layer_replication", "alora_invocation_tokens", "use_qalora")
"""Of PEFT's config: what makes another product of A and B, or none for some tokens. None of it is merged here."""


class Change(Protocol):
    """What becomes of a weight; of its rows all dimensions but the last are counted together."""

    def apply(self, first: int, rows: torch.Tensor) -> torch.Tensor:
        """Gives what becomes of rows (rows, in) float32, which it may overwrite; `first` is the first one's number."""
        ...


@dataclass(frozen=True)
class LowRank:
    """LoRA, rsLoRA and DoRA of a linear layer, in float32."""

    a: torch.Tensor
    """(rank, in)."""
    b: torch.Tensor
    """(out, rank)."""
    scale: float
    magnitude: torch.Tensor | None
    """(out,): the length of each row, where it is trained beside."""

    def apply(self, first: int, rows: torch.Tensor) -> torch.Tensor:
        """W + scale BA; by DoRA brought to the trained length, row by row.

        Source: Liu et al. 2024, arXiv:2402.09353, equation 5; PEFT 0.21, tuners/lora/layer.py, merge.
        """
        here = slice(first, first + len(rows))
        rows.addmm_(self.b[here], self.a, alpha=self.scale)
        return rows if self.magnitude is None else rows.mul_(self.lengthen(here, rows)[:, None])

    def lengthen(self, here: slice, rows: torch.Tensor) -> torch.Tensor:
        """Gives the factor that brings each of these rows of W + scale BA to its trained length, (rows,)."""
        assert self.magnitude is not None
        lengths: torch.Tensor = torch.linalg.vector_norm(rows, dim=1)
        return self.magnitude[here] / lengths


@dataclass(frozen=True)
class OfExperts:
    """LoRA of one fused weight of all routed experts of a layer, in float32."""

    a: torch.Tensor
    """(experts, rank, in)."""
    b: torch.Tensor
    """(experts, out, rank)."""
    scale: float

    def apply(self, first: int, rows: torch.Tensor) -> torch.Tensor:
        """W + scale BA, expert by expert."""
        out, done = self.b.shape[1], 0
        while done < len(rows):
            expert, inside = divmod(first + done, out)
            some = rows[done : done + out - inside]
            some.addmm_(self.b[expert, inside : inside + len(some)], self.a[expert], alpha=self.scale)
            done += len(some)
        return rows


@dataclass(frozen=True)
class Whole:
    """A weight that was trained whole, such as a router's."""

    weight: torch.Tensor
    """(rows, in) float32."""
    rest: float = 0.0
    """Times the base's own weight, that is added; of one trained weight nothing."""

    def apply(self, first: int, rows: torch.Tensor) -> torch.Tensor:
        """The trained rows, whatever was there."""
        here = self.weight[first : first + len(rows)]
        return here if self.rest == 0 else torch.add(here, rows, alpha=self.rest)


class Changes(Protocol):
    """What changes the weights of a base: an adapter, several that became one, or weights that were trained whole."""

    def place(self, parameters: Mapping[str, tuple[int, ...]]) -> set[str]:
        """Lists the weights of a text model that it changes, and makes sure that all of it has a place there."""
        ...

    def change(self, name: str, num_experts: int = 0, device: torch.device = CPU) -> Change:
        """Reads what it makes of one weight."""
        ...


class Adapter:
    """An adapter of ours, or one that plain PEFT trained on the same layers."""

    def __init__(self, folder: Path) -> None:
        """Reads what the files hold, and no weight.

        Raises:
            ArtifactError: they cannot be read, or are not of a LoRA.
        """
        self.folder = folder
        self.stored = {tensor.name: tensor for tensor in list_tensors([folder / WEIGHTS])}
        self.config = _config(folder / CONFIG)
        self._newest: tuple[str, dict[str, Pair]] = "", {}

    def place(self, parameters: Mapping[str, tuple[int, ...]]) -> set[str]:
        """Lists the weights of a text model that it changes, and makes sure that all of it has a place there.

        Raises:
            ArtifactError: part of it changes what the model does not have, or what is never merged, or is missing, or
                has another shape than the weight.
        """
        changed, placed = set(), set[str]()
        for name, shape in parameters.items():
            if names := [each for each in self._names(name) if each in self.stored]:
                self._check_shapes(name, shape)
                changed.add(name)
                placed.update(names)
        if strange := sorted(self.stored.keys() - placed):
            why = f"{len(strange)} of its tensors have no place there, first {strange[0]}"
            raise ArtifactError("the adapter is not of this base", where=str(self.folder / WEIGHTS), why=why)
        self._check_experts(changed)
        return changed

    def change(self, name: str, num_experts: int = 0, device: torch.device = CPU) -> Change:
        """Reads what it makes of one weight.

        Args:
            name: as the text-only class names the parameter; one of those that `place` gave.
            num_experts: of the layer, where the weight is of routed experts.
            device: where it is wanted.

        Raises:
            ArtifactError: a tensor is missing or cut short.
        """
        if of_experts(name):
            block, _, leaf = name.rpartition(".")
            a, b = self._pairs(PREFIX + block, num_experts)[leaf]
            return OfExperts(a.to(device), b.to(device), self._scale(name, a.shape[1]))
        module = name.removesuffix(".weight")
        if PREFIX + name in self.stored:
            return Whole(self._read(PREFIX + name).to(device))
        a, b = (self._read(f"{PREFIX}{module}.lora_{each}.weight").to(device) for each in "AB")
        magnitude = None
        if self.config["use_dora"]:
            magnitude = self._read(f"{PREFIX}{module}.lora_magnitude_vector").to(device)
        return LowRank(a, b, self._scale(module, len(a)), magnitude)

    def _names(self, name: str) -> Iterable[str]:
        """Lists the tensors that could change a weight."""
        if of_experts(name):
            block, _, leaf = name.rpartition(".")
            nested = "base_layer." if leaf == EXPERT_WEIGHTS[0] else ""
            return [f"{PREFIX}{block}.{nested}lora_{each}.weight" for each in "AB"]
        module = PREFIX + name.removesuffix(".weight")
        if name.endswith(f".{ROUTER}.weight"):
            return [f"{module}.weight"]
        length = ["lora_magnitude_vector"] if self.config["use_dora"] else []
        return [f"{module}.{each}" for each in ("lora_A.weight", "lora_B.weight", *length)]

    def _check_shapes(self, name: str, shape: tuple[int, ...]) -> None:
        """Compares the shapes of what changes a weight with the weight's own.

        Raises:
            ArtifactError: they do not fit, or one is missing.
        """
        names = list(self._names(name))
        lacking = [each for each in names if each not in self.stored]
        if lacking:
            raise ArtifactError(f"the adapter lacks {lacking[0]}", where=str(self.folder / WEIGHTS))
        found = [self.stored[each].shape for each in names]
        if len(found) == 1:
            fits = found == [shape]
        else:
            out, into, num_experts = shape[-2], shape[-1], math.prod(shape[:-2])
            rows = found[0][0]
            fits = rows % num_experts == 0 and found == [(rows, into), (out, rows), (out,)][: len(found)]
        if not fits:
            why = f"{names[0]} is {found[0]}, and the weight {shape}"
            raise ArtifactError("the adapter is not of this base", where=str(self.folder / WEIGHTS), why=why)

    def _check_experts(self, changed: Collection[str]) -> None:
        """Makes sure that both weights of a layer's experts have adapters, or none: they are written down together.

        Raises:
            ArtifactError: only one has.
        """
        blocks = {name.rpartition(".")[0] for name in changed if of_experts(name)}
        lacking = sorted(f"{b}.{leaf}" for b in blocks for leaf in EXPERT_WEIGHTS if f"{b}.{leaf}" not in changed)
        if lacking:
            why = f"{lacking[0]} has none, and its sibling has one"
            raise ArtifactError("the experts' adapters are not as we write them", where=str(self.folder), why=why)

    def _pairs(self, block: str, num_experts: int) -> dict[str, Pair]:
        """Reads both weights of a layer's experts; the newest layer is kept, for its other weight comes next."""
        if self._newest[0] != block:
            names = [name for name in self.stored if name.startswith(f"{block}.")]
            self._newest = block, from_peft(block, {name: self._read(name) for name in names}, num_experts)
        return self._newest[1]

    def _scale(self, module: str, rank: int) -> float:
        """Gives alpha / rank, or alpha / sqrt(rank), by the patterns of the config where one matches the module."""
        alphas = self.config["alpha_pattern"]
        alpha = alphas.get(get_pattern_key(alphas.keys(), module), self.config["lora_alpha"])
        return float(alpha / (math.sqrt(rank) if self.config["use_rslora"] else rank))

    def _read(self, name: str) -> torch.Tensor:
        if name not in self.stored:
            raise ArtifactError(f"the adapter lacks {name}", where=str(self.folder / WEIGHTS))
        return read_whole(self.stored[name]).float()


def of_experts(name: str) -> bool:
    """Tells whether a parameter holds all routed experts of a layer."""
    return ".mlp.experts." in name and name.endswith(EXPERT_WEIGHTS)


def experts_in(name: str, parameters: Mapping[str, tuple[int, ...]]) -> int:
    """Counts the routed experts that a parameter holds; 0 of any other."""
    return parameters[name][0] if of_experts(name) else 0


def _config(file: Path) -> dict[str, Any]:
    """Reads an adapter's config.

    Raises:
        ArtifactError: it is not of a LoRA, or asks for what is never merged here.
    """
    try:
        told: dict[str, Any] = json.loads(file.read_text())
        lacking = {"lora_alpha", "use_rslora", "use_dora", "alpha_pattern", "peft_type"} - told.keys()
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ArtifactError("the adapter's config cannot be read", where=str(file), why=str(error)) from error
    why = f"it lacks {', '.join(sorted(lacking))}" if lacking else ""
    patterns = told["alpha_pattern"] if not why else {}
    if not why and not isinstance(patterns, dict):
        why = "its alpha_pattern is no mapping"
    if not why and not all(isinstance(alpha, int | float) for alpha in (told["lora_alpha"], *patterns.values())):
        why = "its lora_alpha is no number"
    if not why and (told["peft_type"] != "LORA" or told.get("bias", "none") != "none"):
        why = "it is of another kind than LoRA on linear layers without biases"
    if not why and (strange := [key for key in OTHER_ARITHMETIC if told.get(key)]):
        why = f"it asks for {strange[0]}, which is more than W + scale BA"
    if why:
        raise ArtifactError("the adapter is not one of ours", where=str(file), why=why)
    return told
