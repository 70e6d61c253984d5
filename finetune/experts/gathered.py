"""Tokens that one process works on, its own and others', with what is needed to send their answers home."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Trip:
    """Who sent how many rows to whom."""

    tokens: int
    """Of this process, before any were sent."""
    order: torch.Tensor | None = None
    """Places in the flattened (tokens, processes) of the rows that this process sent, by destination."""
    sends: tuple[int, ...] = ()
    """Rows that this process sent to each."""
    receives: tuple[int, ...] = ()
    """Rows that it got from each."""


@dataclass(frozen=True)
class Gathered:
    """Tokens of several processes, here."""

    hidden: torch.Tensor
    """(rows, width)."""
    index: torch.Tensor
    """(rows, chosen) experts; one that is not held here is not this process's business."""
    weights: torch.Tensor
    """(rows, chosen)."""
    trip: Trip

    def detached(self) -> Gathered:
        """Gives the same numbers, from which no gradient flows."""
        return replace(self, hidden=self.hidden.detach(), weights=self.weights.detach())
