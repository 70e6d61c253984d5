"""Holds every changed tensor, as it lies on the disk, to base and adapter: both are multiplied with the same vectors.

The vectors are drawn by chance, so two different matrices agree on them with probability 0; it costs a hundredth of
making the product again. The adapter stays two narrow matrices. Source: Freivalds 1977, Probabilistic machines can use
less running time.

A right merge is off by its rounding, and how much that is follows from the weights: an error is spread evenly over one
unit in the last place, so its variance is a twelfth of that unit's square. What is measured is the mean square of the
differences over what rounding explains: about 1 if the merge is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from finetune.errors import ProofFailed
from finetune.merge.changes import Change, Changes, LowRank, OfExperts, Whole, experts_in
from finetune.merge.deltas import Deltas
from finetune.merge.rounding import unit_in_the_last_place
from finetune.merge.weights import Weights
from finetune.shards import Stored

PROBES = 16
"""Vectors. With 8 rows, the fewest that a router of a toy has, the measured figure then varies by about 0.13."""

MOST_ROUNDINGS = 2.0
"""Times what rounding explains, in any tensor. At most 1.3 was seen, in routers of a toy; see docs/log.md."""


@dataclass(frozen=True)
class Probed:
    """Of all tensors that became others."""

    changed: int
    """Tensors with an adapter that differ from the base's."""
    unchanged: tuple[str, ...]
    """Tensors with an adapter that do not: their tuning is smaller than their precision."""
    most_roundings: float
    """Mean square of the differences over what rounding explains, in the worst tensor."""


def probe(
    base: Weights, merged: Weights, adapter: Changes, touched: dict[Stored, bool], told: Callable[[int], None]
) -> Probed:
    """Compares every touched tensor of the merged folder with base and adapter.

    Args:
        base: what the adapter was merged onto.
        merged: what came of it.
        adapter: of the run, or several as one.
        touched: tensors of the base, and whether an adapter is on them.
        told: is told the bytes of each piece.

    Raises:
        ProofFailed: one is further from base and adapter than rounding explains.
    """
    made = {tensor.name: tensor for tensor in merged.tensors}
    changed, unchanged, most = 0, [], 0.0
    for tensor, adapted in touched.items():
        name = base.parts[tensor].name
        change = adapter.change(name, experts_in(name, base.parameters)) if adapted else None
        same, roundings = _probe(base, merged, tensor, made[tensor.name], change, told)
        if not roundings <= MOST_ROUNDINGS:
            why = f"it is {roundings:.3g} times as far from base and adapter as rounding explains"
            raise ProofFailed(f"{tensor.name} is not base and adapter", where=str(made[tensor.name].file), why=why)
        most = max(most, roundings)
        changed += adapted and not same
        if adapted and same:
            unchanged.append(tensor.name)
    return Probed(changed, tuple(unchanged), most)


def _probe(
    base: Weights, merged: Weights, old: Stored, new: Stored, change: Change | None, told: Callable[[int], None]
) -> tuple[bool, float]:
    """Tells whether a tensor is just the base's, and the mean square of its differences over that of rounding."""
    vectors = torch.randn(old.width, PROBES, generator=torch.Generator().manual_seed(old.width))
    offset, same, differences, explained = base.parts[old].first, True, 0.0, 0.0
    for first, rows in base.pieces(old):
        found = merged.stretch(new, first - offset, len(rows))
        same = same and torch.equal(found, rows)
        wanted = _product(change, first, rows, vectors)
        difference = found @ vectors - wanted
        unit = unit_in_the_last_place(found, new.dtype)
        differences += difference.square().sum(dtype=torch.float64).item()
        explained += (unit.square_() @ vectors.square()).sum(dtype=torch.float64).item() / 12
        told(len(rows) * new.row_bytes)
    if not differences:
        return same, 0.0
    return same, differences / explained if explained else math.inf


def _product(change: Change | None, first: int, rows: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Multiplies base and adapter with vectors, (in, probes), and never the one added to the other."""
    here = slice(first, first + len(rows))
    match change:
        case Whole(weight, rest):
            product = weight[here] @ vectors
            return product if rest == 0 else product + rest * (rows @ vectors)
        case Deltas():
            return rows @ vectors + change.rows(first, len(rows)) @ vectors
        case LowRank(a, b, scale, magnitude):
            beside = b[here] @ (a @ vectors) * scale
            product = rows @ vectors + beside
            return product if magnitude is None else product * (magnitude[here] / _lengths(change, here, rows))[:, None]
        case OfExperts(a, b, scale):
            out = b.shape[1]
            numbers = torch.arange(here.start, here.stop)
            expert, inside = numbers // out, numbers % out
            narrow = a[expert[0] : expert[-1] + 1] @ vectors  # (experts, rank, probes)
            beside = b[expert, inside][:, None] @ narrow[expert - expert[0]]  # (rows, 1, probes)
            return rows @ vectors + beside[:, 0] * scale
    return rows @ vectors


def _lengths(change: LowRank, here: slice, rows: torch.Tensor) -> torch.Tensor:
    """Gives the length of each row of W + scale BA from its parts: of W, of BA, and their inner product."""
    outward, gram = change.b[here] * change.scale, change.a @ change.a.T
    crossed = (rows @ change.a.T * outward).sum(dim=1)
    return (rows.square().sum(dim=1) + 2 * crossed + (outward @ gram * outward).sum(dim=1)).sqrt()
