"""Tokens on their way to the processes that hold their experts, and to no others: by all-to-all, once to each.

A token whose experts are all in one process is one row there. Its answers are added up there, and the sums of several
processes at home. No token is dropped and none overflows; a process to which nobody sends takes part like any other.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import distributed
from torch.autograd.function import once_differentiable

from finetune.experts.gathered import Gathered, Trip
from finetune.experts.routing import add_up, take


class ToOwners:
    """Sends rows to whom they concern."""

    def __init__(self, group: distributed.ProcessGroup) -> None:
        self.group, self.size = group, group.size()

    def gather(self, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor, held: int) -> Gathered:
        """Gives the tokens of which one expert at least is held here, from one process after another."""
        trip = self._plan(index, held)
        assert trip.order is not None
        rows, chosen = take(hidden, trip.order, self.size), take(weights, trip.order, self.size)
        index = _exchange(index.index_select(0, trip.order // self.size), trip.sends, trip.receives, self.group)
        return Gathered(self._out(rows, trip), index, self._out(chosen, trip), trip)

    def gather_again(self, hidden: torch.Tensor, weights: torch.Tensor, before: Gathered) -> Gathered:
        """Gives what `gather` gave before, without asking anybody; gradients flow as they do through it."""
        trip = before.trip
        assert trip.order is not None
        rows, chosen = take(hidden, trip.order, self.size), take(weights, trip.order, self.size)
        return Gathered(
            self._out(rows, trip, before.hidden), before.index, self._out(chosen, trip, before.weights), trip
        )

    def scatter(self, shares: torch.Tensor, gathered: Gathered) -> torch.Tensor:
        """Adds up what those that were asked say of this process's tokens, (tokens, width)."""
        return self._home(shares, gathered.trip, None)

    def scatter_again(self, shares: torch.Tensor, gathered: Gathered) -> torch.Tensor:
        """Gives a tensor in the place of `scatter`'s, zeros that nobody reads: a sum keeps nothing for its backward."""
        nothing = shares.new_zeros(1, 1).expand(sum(gathered.trip.sends), shares.shape[1])
        return self._home(shares, gathered.trip, nothing)

    def _plan(self, index: torch.Tensor, held: int) -> Trip:
        """Lists who needs which tokens, and asks how many rows come from whom."""
        tokens = len(index)
        wanted = torch.zeros(tokens, self.size, dtype=torch.bool, device=index.device)
        wanted.scatter_(1, index // held, value=True)
        counts = wanted.sum(0)  # (processes,)
        coming = torch.empty_like(counts)
        distributed.all_to_all_single(coming, counts, group=self.group)
        owners, places = wanted.T.nonzero(as_tuple=True)  # by owner, then by token
        sends, receives = torch.stack([counts, coming]).tolist()
        return Trip(tokens, places * self.size + owners, tuple(sends), tuple(receives))

    def _out(self, rows: torch.Tensor, trip: Trip, before: torch.Tensor | None = None) -> torch.Tensor:
        return _send(rows, trip.sends, trip.receives, self.group, before)

    def _home(self, shares: torch.Tensor, trip: Trip, before: torch.Tensor | None) -> torch.Tensor:
        assert trip.order is not None
        rows = _send(shares, trip.receives, trip.sends, self.group, before)
        return add_up(rows, trip.order, trip.tokens, self.size)


def _exchange(rows: torch.Tensor, sends: tuple[int, ...], receives: tuple[int, ...], group: Any) -> torch.Tensor:
    got = rows.new_empty(sum(receives), *rows.shape[1:])
    distributed.all_to_all_single(got, rows.contiguous(), list(receives), list(sends), group=group)
    return got


def _send(
    rows: torch.Tensor, sends: tuple[int, ...], receives: tuple[int, ...], group: Any, before: torch.Tensor | None
) -> torch.Tensor:
    return cast("torch.Tensor", _Send.apply(rows, sends, receives, group, before))


class _Send(torch.autograd.Function):
    """Its transpose sends every gradient back to where the row came from."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: torch.Tensor,
        sends: tuple[int, ...],
        receives: tuple[int, ...],
        group: Any,
        before: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.trip = sends, receives, group
        return _exchange(rows, sends, receives, group) if before is None else before.view_as(before)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        sends, receives, group = ctx.trip
        return _exchange(gradient, receives, sends, group), None, None, None, None
