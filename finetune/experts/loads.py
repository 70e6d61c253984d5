"""How the routers share tokens out: the load of every expert, who is idle, and how far that moved from the base.

Routers are looked at only while a `with` says so. What backward recomputes lies outside of it, so nothing is counted
twice, and nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeSparseMoeBlock

Seen = Callable[[int, torch.Tensor], None]
"""Takes the number of a layer among those with experts, and what its tokens chose, (tokens, chosen)."""


@dataclass(frozen=True)
class Loads:
    """What was routed while the routers were watched."""

    counts: torch.Tensor
    """Tokens that chose each expert, (layers, experts) int64, on the CPU."""

    @staticmethod
    def of(choices: torch.Tensor, num_experts: int) -> Loads:
        """Counts choices, (layers, tokens, chosen), on the CPU."""
        counts = torch.zeros(len(choices), num_experts, dtype=torch.int64)
        flat = choices.flatten(1).long()
        return Loads(counts.scatter_add_(1, flat, torch.ones_like(flat)))

    @property
    def shares(self) -> torch.Tensor:
        """Of each layer's choices, (layers, experts) float64."""
        return self.counts.double() / self.counts.sum(1, keepdim=True).clamp(min=1)

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


def rerouted(choices: torch.Tensor, base: torch.Tensor) -> list[float]:
    """Gives the share of each layer's choices that went to an expert that the same token had not chosen before.

    Loads may stay as they are while tokens change places; this sees it.

    Args:
        choices: (layers, tokens, chosen), in any order of a token's experts.
        base: the same, of the base.
    """
    kept = [
        (now[:, :, None] == then[:, None, :]).any(2).double().mean() for now, then in zip(choices, base, strict=True)
    ]
    return [1 - share.item() for share in kept]


def expert_blocks(model: nn.Module) -> list[nn.Module]:
    """Lists the feed-forwards of a model that have a router, in the order of its layers; a dense model has none."""
    return [module for module in model.modules() if isinstance(module, Qwen3_5MoeSparseMoeBlock)]


@contextmanager
def watched(blocks: Sequence[nn.Module], seen: Seen) -> Iterator[None]:
    """Shows what every router chooses meanwhile, padding included."""
    hooks = [
        block.get_submodule("gate").register_forward_hook(partial(_show, seen, layer))
        for layer, block in enumerate(blocks)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _show(
    seen: Seen, layer: int, gate: nn.Module, given: Any, out: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> None:
    """A forward hook of a router, or of what PEFT puts around a trained one."""
    seen(layer, out[2])


class LoadCounter:
    """Adds up the loads of a model's routers, where the model is."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        """Takes what `expert_blocks` gave of a model that has some."""
        self._blocks = blocks
        experts: Any = blocks[0].get_submodule("experts")
        device = next(blocks[0].get_submodule("gate").parameters()).device
        self._counts = torch.zeros(len(blocks), experts.num_experts, dtype=torch.int64, device=device)

    def counting(self, mask: torch.Tensor) -> AbstractContextManager[None]:
        """Counts what routers choose meanwhile.

        Args:
            mask: (batch, tokens), 1 where a token counts; padding and filler rows have 0.
        """
        flat = mask.reshape(-1, 1).long()

        def seen(layer: int, index: torch.Tensor) -> None:
            self._counts[layer].scatter_add_(0, index.reshape(-1), flat.expand_as(index).reshape(-1))

        return watched(self._blocks, seen)

    def take(self) -> torch.Tensor:
        """Gives what was counted since it was asked last, (layers, experts) int64, where it is."""
        taken = self._counts.clone()
        self._counts.zero_()
        return taken
