"""Tokens on their way to all processes that share the experts of a layer, and what those said on its way back.

Every process of a group gets the tokens of all (all-gather), works out its own experts' share of every answer, and the
shares are added up where the tokens came from (reduce-scatter). Shapes do not depend on what the routers choose: no
token is dropped, no expert overflows, and a process whose experts nobody chose takes part like any other.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import distributed
from torch.autograd.function import once_differentiable
from torch.nn import functional

from finetune.experts.gathered import Gathered, Trip


class ToAll:
    """Gives every token to every process."""

    def __init__(self, group: distributed.ProcessGroup) -> None:
        self.group, self.size = group, group.size()

    def gather(self, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor, held: int) -> Gathered:
        """Gives the tokens of all processes, one process after another, each padded to the longest.

        A padding token chooses no expert: its index is -1.
        """
        longest = self._longest(len(hidden), hidden.device)
        pad = (0, 0, 0, longest - len(hidden))
        return Gathered(
            _gather(hidden, longest, self),
            _all_gather(functional.pad(index, pad, value=-1), self),
            _gather(weights, longest, self),
            Trip(len(hidden)),
        )

    def gather_again(self, hidden: torch.Tensor, weights: torch.Tensor, before: Gathered) -> Gathered:
        """Gives what `gather` gave before, without asking anybody; gradients flow as they do through it."""
        return Gathered(
            _gather(hidden, 0, self, before.hidden),
            before.index,
            _gather(weights, 0, self, before.weights),
            before.trip,
        )

    def scatter(self, shares: torch.Tensor, gathered: Gathered) -> torch.Tensor:
        """Adds up what all processes say of this one's tokens, (tokens, width)."""
        return _scatter(shares, gathered.trip.tokens, self, again=False)

    def scatter_again(self, shares: torch.Tensor, gathered: Gathered) -> torch.Tensor:
        """Gives a tensor in the place of `scatter`'s, zeros that nobody reads: a sum keeps nothing for its backward."""
        return _scatter(shares, gathered.trip.tokens, self, again=True)

    def _longest(self, tokens: int, device: torch.device) -> int:
        count = torch.tensor(tokens, device=device)
        distributed.all_reduce(count, distributed.ReduceOp.MAX, group=self.group)
        return int(count)


def _gather(mine: torch.Tensor, longest: int, exchange: ToAll, before: torch.Tensor | None = None) -> torch.Tensor:
    return cast("torch.Tensor", _Gather.apply(mine, longest, exchange, before))


def _scatter(shares: torch.Tensor, tokens: int, exchange: ToAll, *, again: bool) -> torch.Tensor:
    return cast("torch.Tensor", _Scatter.apply(shares, tokens, exchange, again))


def _all_gather(mine: torch.Tensor, exchange: ToAll) -> torch.Tensor:
    of_all = mine.new_empty(exchange.size * len(mine), *mine.shape[1:])
    distributed.all_gather_into_tensor(of_all, mine.contiguous(), group=exchange.group)
    return of_all


def _reduce_scatter(of_all: torch.Tensor, exchange: ToAll) -> torch.Tensor:
    mine = of_all.new_empty(len(of_all) // exchange.size, *of_all.shape[1:])
    distributed.reduce_scatter_tensor(mine, of_all.contiguous(), group=exchange.group)
    return mine


class _Gather(torch.autograd.Function):
    """Its transpose is a sum over the processes, of which each keeps its own rows."""

    @staticmethod
    def forward(
        ctx: Any, mine: torch.Tensor, longest: int, exchange: ToAll, before: torch.Tensor | None
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
    def forward(ctx: Any, of_all: torch.Tensor, tokens: int, exchange: ToAll, again: bool) -> torch.Tensor:
        ctx.exchange, ctx.longest = exchange, len(of_all) // exchange.size
        if again:
            return of_all.new_zeros(tokens, of_all.shape[1])
        return _reduce_scatter(of_all, exchange)[:tokens]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        padded = functional.pad(gradient, (0, 0, 0, ctx.longest - len(gradient)))
        return _all_gather(padded, ctx.exchange), None, None, None
