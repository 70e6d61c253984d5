"""Products of rows with the weights of their experts: one call for many experts, each meeting its own rows only.

`torch.nn.functional.grouped_mm` does it on GPUs (bf16, compute capability 8.0 and later) and on CPUs alike. It asks
for strides of whole 16 bytes, so low ranks are padded with zeros, which add nothing.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from finetune.experts.routing import Groups


class Stack(Protocol):
    """One frozen weight of every expert, (experts, out, in), of which a few at a time can be had whole."""

    at_once: int
    """Experts that may be whole at one time."""
    out_features: int
    in_features: int

    def whole(self, first: int, last: int) -> torch.Tensor:
        """Gives the weights of some experts in the dtype of the arithmetic, (last - first, out, in)."""
        ...


def frozen_product(rows: torch.Tensor, stack: Stack, groups: Groups) -> torch.Tensor:
    """Multiplies rows with frozen weights, which backward makes whole again: nothing of them is kept.

    Args:
        rows: sorted by expert, (rows, in), in the dtype of the arithmetic.
        stack: of the weights.
        groups: rows of each expert.

    Returns:
        (rows, out).
    """
    return cast("torch.Tensor", _FrozenProduct.apply(rows, stack, groups))


def trained_product(rows: torch.Tensor, weights: torch.Tensor, groups: Groups) -> torch.Tensor:
    """Multiplies rows with weights that get a gradient, zero where an expert had no row.

    Args:
        rows: sorted by expert, (rows, in).
        weights: (experts, out, in), of the rows' dtype; `out` and `in` in whole 16 bytes.
        groups: rows of each expert.

    Returns:
        (rows, out).
    """
    return cast("torch.Tensor", _TrainedProduct.apply(rows, weights, groups))


def _product(rows: torch.Tensor, weights: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Multiplies with (experts, in, out)."""
    if not len(rows):
        return rows.new_empty(0, weights.shape[-1])
    return functional.grouped_mm(rows.contiguous(), weights, offs=ends)


def _in_turns(rows: torch.Tensor, stack: Stack, groups: Groups, *, transposed: bool) -> torch.Tensor:
    """Makes the weights of a few experts whole, multiplies, forgets them, and goes on to the next."""
    if stack.at_once >= len(groups.ends):
        weights = stack.whole(0, len(groups.ends))
        return _product(rows, weights if transposed else weights.mT, groups.ends)
    out = rows.new_empty(len(rows), stack.in_features if transposed else stack.out_features)
    num_experts = len(groups.ends)
    for first in range(0, num_experts, stack.at_once):
        last = min(first + stack.at_once, num_experts)
        start, stop = groups.bounds[first], groups.bounds[last]
        if start == stop:
            continue
        weights = stack.whole(first, last)
        ends = groups.ends[first:last] - start
        out[start:stop] = _product(rows[start:stop], weights if transposed else weights.mT, ends)
        del weights  # before the next ones are made
    return out


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, stack: Stack, groups: Groups) -> torch.Tensor:
        ctx.stack, ctx.groups = stack, groups
        return _in_turns(rows, stack, groups, transposed=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _in_turns(gradient, ctx.stack, ctx.groups, transposed=True), None, None


class _TrainedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weights: torch.Tensor, groups: Groups) -> torch.Tensor:
        ctx.save_for_backward(rows, weights)
        ctx.groups = groups
        return _product(rows, weights.mT, groups.ends)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        rows, weights = ctx.saved_tensors
        if not len(rows):
            return torch.zeros_like(rows), torch.zeros_like(weights), None
        gradient = gradient.contiguous()
        of_weights = functional.grouped_mm(gradient.mT, rows.contiguous(), offs=ctx.groups.ends)
        return _product(gradient, weights, ctx.groups.ends), of_weights, None
