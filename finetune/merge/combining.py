"""Several adapters as one: what merging knows of a weight stays a single change, whichever adapters are on it.

A weighted sum is exact: the A stand below one another and the B, times weight and scale, side by side, so the rank is
the sum of the ranks and no two adapters need to be alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from finetune.errors import ArtifactError
from finetune.merge.changes import CPU, Adapter, Change, LowRank, OfExperts, Whole
from finetune.merge.deltas import Deltas, Method, key_of, thresholds
from finetune.merge.deltas import Part as LowRanks
from finetune.model.adapter import ROUTER

SEED = 0
"""Of what DARE drops."""


class Combined:
    """What several adapters make of a base together."""

    def __init__(
        self,
        adapters: Sequence[tuple[Adapter, float]],
        parameters: Mapping[str, tuple[int, ...]],
        method: Method,
        density: float | None,
    ) -> None:
        """Looks at what each of them changes.

        Args:
            adapters: each with its weight.
            parameters: of the text model.
            method: `linear` adds up; `ties` and `dare` thin every delta first.
            density: share of a delta that these two keep.

        Raises:
            ArtifactError: one is not of this base, or cannot be combined so.
        """
        self.adapters, self.method, self.density = adapters, method, density
        self._placed = [adapter.place(parameters) for adapter, _ in adapters]
        self._thresholds: dict[str, torch.Tensor] = {}
        for adapter, _ in adapters:
            _check(adapter, method)

    def place(self, parameters: Mapping[str, tuple[int, ...]]) -> set[str]:
        """Lists the weights that any of them changes."""
        return set[str]().union(*(adapter.place(parameters) for adapter, _ in self.adapters))

    def parts(self, name: str, num_experts: int = 0, device: torch.device = CPU) -> list[tuple[int, Change, float]]:
        """Reads what each of them that changes a weight makes of it: its number, the change, and its weight."""
        return [
            (number, adapter.change(name, num_experts, device), weight)
            for number, (adapter, weight) in enumerate(self.adapters)
            if name in self._placed[number]
        ]

    def change(self, name: str, num_experts: int = 0, device: torch.device = CPU) -> Change:
        """Reads what they make of one weight together.

        Raises:
            ArtifactError: a file was cut short.
        """
        parts = self.parts(name, num_experts, device)
        if self.method == "linear":
            return add_up([(change, weight) for _, change, weight in parts])
        assert self.density is not None
        changes = tuple(change for _, change, _ in parts if isinstance(change, LowRank | OfExperts))
        assert len(changes) == len(parts), f"{name} is trained whole"
        keys = tuple(key_of(SEED, number, name) for number, _, _ in parts)
        bounds = self._bounds(name, changes, self.density) if self.method == "ties" else None
        return Deltas(changes, tuple(weight for *_, weight in parts), self.density, bounds, keys)

    def _bounds(self, name: str, changes: Sequence[LowRanks], density: float) -> torch.Tensor:
        """Finds what TIES keeps; it is the most of its work, and asked for thrice."""
        if name not in self._thresholds:
            self._thresholds[name] = torch.stack([thresholds(change, density) for change in changes])
        return self._thresholds[name]


def add_up(changes: Sequence[tuple[Change, float]]) -> Change:
    """Gives the one change that is the weighted sum of several of one weight."""
    low = [(c, weight) for c, weight in changes if isinstance(c, LowRank)]
    stacked = [(c, weight) for c, weight in changes if isinstance(c, OfExperts)]
    if low:
        b = torch.cat([c.b * (weight * c.scale) for c, weight in low], dim=1)
        return LowRank(torch.cat([c.a for c, _ in low]), b, 1.0, None)
    if stacked:
        b = torch.cat([c.b * (weight * c.scale) for c, weight in stacked], dim=2)
        return OfExperts(torch.cat([c.a for c, _ in stacked], dim=1), b, 1.0)
    # W + sum of weight * (trained - W)
    whole = [(c.weight * weight, weight) for c, weight in changes if isinstance(c, Whole)]
    return Whole(torch.stack([each for each, _ in whole]).sum(dim=0), 1 - math.fsum(weight for _, weight in whole))


def _check(adapter: Adapter, method: Method) -> None:
    """Makes sure that what an adapter does to a weight is a delta.

    Raises:
        ArtifactError: it is not, or none that can be thinned.
    """
    if adapter.config["use_dora"]:
        raise ArtifactError(
            "DoRA cannot be combined",
            where=str(adapter.folder),
            why="it sets the length of each row of W + BA, so two of them, or a part of one, have no sum",
            fix="merge the run alone, with weight 1",
        )
    if method != "linear" and any(name.endswith(f".{ROUTER}.weight") for name in adapter.stored):
        raise ArtifactError(
            f"routers that were trained whole cannot be combined by {method}",
            where=str(adapter.folder),
            why="only what has a low rank is thinned; their weighted sum can be had",
            fix="--method linear",
        )
