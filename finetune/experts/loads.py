"""How the routers share tokens out: the load of every expert, who is idle, and how far that moved from the base."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeTopKRouter


@dataclass(frozen=True)
class Loads:
    """What was routed while the routers were watched."""

    counts: torch.Tensor
    """Tokens that chose each expert, (layers, experts) int64, on the CPU."""

    @property
    def shares(self) -> torch.Tensor:
        """Of each layer's choices, (layers, experts) float64."""
        return self.counts / self.counts.sum(1, keepdim=True).clamp(min=1)

    @property
    def skew(self) -> list[float]:
        """Load of the busiest expert over the mean, of each layer; 1 is even."""
        return (self.shares.amax(1) * self.counts.shape[1]).tolist()

    @property
    def idle(self) -> list[int]:
        """Experts of each layer that no token chose."""
        return (self.counts == 0).sum(1).tolist()

    def drift(self, base: Loads) -> list[float]:
        """Share of each layer's choices that went elsewhere than the base's: half the sum of the differences."""
        return ((self.shares - base.shares).abs().sum(1) / 2).tolist()


@contextmanager
def watched(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Counts what every router of a model chooses meanwhile, padding included.

    Yields:
        A tensor of counts for each router, (experts,) int64, where it is; they grow. Read them with `loads`.
    """
    routers = [module for module in model.modules() if isinstance(module, Qwen3_5MoeTopKRouter)]
    counts = [torch.zeros(r.num_experts, dtype=torch.int64, device=r.weight.device) for r in routers]
    hooks = [router.register_forward_hook(_counting(count)) for router, count in zip(routers, counts, strict=True)]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def loads(counts: list[torch.Tensor]) -> Loads:
    """Gives what was counted."""
    return Loads(torch.stack(counts).cpu())


def _counting(count: torch.Tensor) -> Any:
    def hook(router: nn.Module, given: Any, out: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
        count.add_(torch.bincount(out[2].reshape(-1), minlength=len(count)))

    return hook
