"""Tokens on their way to the processes that hold their experts, and what those said on its way back.

Every process of a group gets the tokens of all (all-gather), works out its own experts' share of every answer, and the
shares are added up where the tokens came from (reduce-scatter). Shapes do not depend on what the routers choose: no
token is dropped, no expert overflows, and a process whose experts nobody chose takes part like any other.

Sending each row to its expert alone (all-to-all) moves chosen x (size - 1) / size rows a token, this (size - 1): less
while the group is smaller than the number of experts that a token chooses, 8 in the 35B-A3B.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import distributed
from torch.autograd.function import once_differentiable
from torch.nn import functional


class Exchange:
    """A group of processes that share the experts of every layer."""

    def __init__(self, group: distributed.ProcessGroup) -> None:
        """Joins the group; call it in every process of it."""
        self.group = group
        self.size, self.place = group.size(), group.rank()

    def gather(self, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Gives the tokens of all processes, one process after another, each padded to the longest.

        Args:
            hidden: (tokens, width) of this process.
            index: (tokens, chosen) experts.
            weights: (tokens, chosen).

        Returns:
            The same of all: (size * longest, ...). A padding token chooses no expert: its index is -1.
        """
        longest = self._longest(len(hidden), hidden.device)
        pad = (0, 0, 0, longest - len(hidden))
        return (
            _gather(hidden, longest, self),
            _all_gather(functional.pad(index, pad, value=-1), self),
            _gather(weights, longest, self),
        )

    def gather_again(
        self, hidden: torch.Tensor, weights: torch.Tensor, before: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...]:
        """Gives what `gather` gave before, without asking anybody; gradients flow as they do through it."""
        return _gather(hidden, 0, self, before[0]), before[1], _gather(weights, 0, self, before[2])

    def scatter(self, shares: torch.Tensor, tokens: int) -> torch.Tensor:
        """Adds up what all processes say of this one's tokens.

        Args:
            shares: of the answers for all tokens, (size * longest, width).
            tokens: of this process.

        Returns:
            (tokens, width).
        """
        return _scatter(shares, tokens, self, again=False)

    def scatter_again(self, shares: torch.Tensor, tokens: int) -> torch.Tensor:
        """Gives a tensor in the place of `scatter`'s, zeros that nobody reads: a sum keeps nothing for its backward."""
        return _scatter(shares, tokens, self, again=True)

    def _longest(self, tokens: int, device: torch.device) -> int:
        count = torch.tensor(tokens, device=device)
        distributed.all_reduce(count, distributed.ReduceOp.MAX, group=self.group)
        return int(count)


def _gather(mine: torch.Tensor, longest: int, exchange: Exchange, before: torch.Tensor | None = None) -> torch.Tensor:
    return cast("torch.Tensor", _Gather.apply(mine, longest, exchange, before))


def _scatter(shares: torch.Tensor, tokens: int, exchange: Exchange, *, again: bool) -> torch.Tensor:
    return cast("torch.Tensor", _Scatter.apply(shares, tokens, exchange, again))


def _all_gather(mine: torch.Tensor, exchange: Exchange) -> torch.Tensor:
    of_all = mine.new_empty(exchange.size * len(mine), *mine.shape[1:])
    distributed.all_gather_into_tensor(of_all, mine.contiguous(), group=exchange.group)
    return of_all


def _reduce_scatter(of_all: torch.Tensor, exchange: Exchange) -> torch.Tensor:
    mine = of_all.new_empty(len(of_all) // exchange.size, *of_all.shape[1:])
    distributed.reduce_scatter_tensor(mine, of_all.contiguous(), group=exchange.group)
    return mine


class _Gather(torch.autograd.Function):
    """Its transpose is a sum over the processes, of which each keeps its own rows."""

    @staticmethod
    def forward(
        ctx: Any, mine: torch.Tensor, longest: int, exchange: Exchange, before: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.exchange, ctx.tokens = exchange, len(mine)
        if before is not None:
            return before.view_as(before)
        return _all_gather(functional.pad(mine, (0, 0, 0, longest - len(mine))), exchange)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return _reduce_scatter(gradient, ctx.exchange)[: ctx.tokens], None, None, None


class _Scatter(torch.autograd.Function):
    """Its transpose gives each process's gradient to all."""

    @staticmethod
    def forward(ctx: Any, of_all: torch.Tensor, tokens: int, exchange: Exchange, again: bool) -> torch.Tensor:
        ctx.exchange, ctx.longest = exchange, len(of_all) // exchange.size
        if again:
            return of_all.new_zeros(tokens, of_all.shape[1])
        return _reduce_scatter(of_all, exchange)[:tokens]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        padded = functional.pad(gradient, (0, 0, 0, ctx.longest - len(gradient)))
        return _all_gather(padded, ctx.exchange), None, None, None
