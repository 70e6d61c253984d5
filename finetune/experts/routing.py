"""Rows on their way to the experts and back: copied and sorted there, summed up here.

Taking rows and adding them up are each other's transpose: the gradient of one is the other, so neither keeps anything
and neither adds in an order that chance decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable

MOST_TURNS = 16
"""In which rows are added up, however few they are."""


@dataclass(frozen=True)
class Groups:
    """How many rows each expert has, in a tensor of rows sorted by expert."""

    ends: torch.Tensor
    """Where each expert's rows end, (experts,) int32, where the rows are."""

    @staticmethod
    def counted(counts: torch.Tensor) -> Groups:
        """Makes them of the rows of each expert, (experts,)."""
        return Groups(counts.cumsum(0, dtype=torch.int32))

    @cached_property
    def bounds(self) -> list[int]:
        """Where each expert's rows begin, and where the last one's end; waits for the device once."""
        return [0, *self.ends.tolist()]

    @property
    def lengths(self) -> list[int]:
        """Rows of each expert."""
        return [stop - start for start, stop in pairwise(self.bounds)]


def sort_rows(index: torch.Tensor, num_experts: int) -> tuple[torch.Tensor, Groups]:
    """Sorts the choices of a router by expert, those of one expert in the order of their tokens.

    Args:
        index: (tokens, chosen), each an expert; a number that is none of them sends the choice nowhere.
        num_experts: of them.

    Returns:
        The places of the choices in the flattened index, (tokens * chosen,), those that go nowhere last; and how many
        there are of each expert.
    """
    flat = index.reshape(-1)
    counts = torch.bincount(flat, minlength=num_experts)[:num_experts]
    return torch.argsort(flat, stable=True), Groups.counted(counts)


def take(hidden: torch.Tensor, order: torch.Tensor, chosen: int) -> torch.Tensor:
    """Copies each token's row once for each of its choices, in an order.

    Args:
        hidden: (tokens, width).
        order: places in the flattened (tokens, chosen), (rows,).
        chosen: experts of each token.

    Returns:
        (rows, width).
    """
    return cast("torch.Tensor", _Take.apply(hidden, order, chosen))


def add_up(rows: torch.Tensor, order: torch.Tensor, tokens: int, chosen: int) -> torch.Tensor:
    """Adds the rows of each token: the transpose of `take`.

    Args:
        rows: (rows, width).
        order: places in the flattened (tokens, chosen), (rows,); what no row has counts as zero.
        tokens: of the result.
        chosen: experts of each token.

    Returns:
        (tokens, width).
    """
    return cast("torch.Tensor", _AddUp.apply(rows, order, tokens, chosen))


def _take(hidden: torch.Tensor, order: torch.Tensor, chosen: int) -> torch.Tensor:
    return hidden.index_select(0, order // chosen)


def _add_up(rows: torch.Tensor, order: torch.Tensor, tokens: int, chosen: int) -> torch.Tensor:
    if len(order) == tokens * chosen:
        places = rows.new_empty(tokens * chosen, rows.shape[1])
        return places.index_copy_(0, order, rows).view(tokens, chosen, rows.shape[1]).sum(1)
    return _add_up_some(rows, order, tokens, chosen)


def _add_up_some(rows: torch.Tensor, order: torch.Tensor, tokens: int, chosen: int) -> torch.Tensor:
    """Adds up the rows of some places, as many tokens at a time as hold no more places than there are rows.

    Most choices of the tokens of several processes are for experts elsewhere: places for all of them would be many
    times the rows.
    """
    at_once = max(len(order) // chosen, -(-tokens // MOST_TURNS))
    starts = list(range(0, tokens, at_once))
    order, by_token = order.sort()
    edges = torch.tensor([*starts, tokens], device=order.device) * chosen
    bounds = torch.searchsorted(order, edges).tolist()
    summed = rows.new_empty(tokens, rows.shape[1])
    for start, (first, last) in zip(starts, pairwise(bounds), strict=True):
        out = summed[start : start + at_once]
        places = rows.new_zeros(len(out) * chosen, rows.shape[1])
        places.index_copy_(0, order[first:last] - start * chosen, rows.index_select(0, by_token[first:last]))
        torch.sum(places.view(len(out), chosen, rows.shape[1]), 1, out=out)
    return summed


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, order: torch.Tensor, chosen: int) -> torch.Tensor:
        ctx.save_for_backward(order)
        ctx.tokens, ctx.chosen = len(hidden), chosen
        return _take(hidden, order, chosen)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (order,) = ctx.saved_tensors
        return _add_up(gradient, order, ctx.tokens, ctx.chosen), None, None


class _AddUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, order: torch.Tensor, tokens: int, chosen: int) -> torch.Tensor:
        ctx.save_for_backward(order)
        ctx.chosen = chosen
        return _add_up(rows, order, tokens, chosen)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (order,) = ctx.saved_tensors
        return _take(gradient, order, ctx.chosen), None, None, None
