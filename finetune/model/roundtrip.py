"""The weights that training in 4 bits really multiplied with: each one quantised and restored, a few rows at a time.

Nothing is approximated: the pieces are what the loader quantised, by the same code, and what bitsandbytes restores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, dequantize_blockwise
from bitsandbytes.nn import Linear4bit

from finetune.experts import NF4Stack
from finetune.memory.loss import TILE
from finetune.memory.weights import BLOCK
from finetune.model.experts import TARGETS
from finetune.model.head import Kind, QuantisedHead
from finetune.model.nf4 import CPU_STRIDE, quantiser
from finetune.model.skeleton import make_skeleton
from finetune.plan import Plan

CPU = torch.device("cpu")

Pieces = Iterator[tuple[int, torch.Tensor]]
"""The number of the first row, and the rows, (rows, in)."""

Read = Callable[[int], Pieces]
"""Reads a weight from its first row to its last, in pieces of whole multiples of so many rows."""


@dataclass(frozen=True)
class Quantised:
    """How the plan quantised one weight."""

    kind: str
    """`linear`; `experts`, each alone; or `head`, tile by tile."""
    dtype: torch.dtype
    """That it was quantised from, and was restored to."""
    shape: tuple[int, ...]
    """(out, in), or (experts, out, in)."""
    head: Kind = "nf4"
    """Of a head: the precision."""


def quantised_weights(folder: Path, plan: Plan) -> dict[str, Quantised]:
    """Lists the weights of a base that the plan quantised, as the text-only class names them.

    Raises:
        ArtifactError: transformers cannot read the base's config.
    """
    dtype = getattr(torch, plan.dtype)
    model = make_skeleton(folder, replace(plan, device="cpu"))
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    found = {}
    if plan.quantisation:
        linears = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Linear4bit)}
        found = {name: Quantised("linear", dtype, shapes[name]) for name in shapes if name in linears}
        found |= {n: Quantised("experts", dtype, shapes[n]) for n in shapes if n.endswith(tuple(TARGETS))}
    if (head := plan.choices.head) != "full":
        found["lm_head.weight"] = Quantised("head", dtype, shapes["lm_head.weight"], head)
    return found


def restored(quantised: Quantised, read: Read) -> Pieces:
    """Quantises a weight and restores it; a linear layer is read once, into 4 bits, before its first row is given."""
    give = {"linear": _linear, "experts": _experts, "head": _head}[quantised.kind]
    return give(quantised, read)


def _linear(quantised: Quantised, read: Read) -> Pieces:
    out, width = quantised.shape
    together = BLOCK // math.gcd(width, BLOCK)
    module = Linear4bit(width, out, bias=False, quant_type="nf4", compress_statistics=True, device="meta")
    fill = quantiser(module, quantised.dtype, CPU)
    for first, rows in read(together):
        fill(first, rows)
    packed, state = module.weight.data, module.weight.quant_state
    module.register_parameter("weight", None)  # it refers to its module, and both would stay until they are looked for
    maxima = dequantize_blockwise(state.absmax, state.state2) + state.offset  # (blocks,) float32
    step = max(together, CPU_STRIDE // width // together * together)
    for first in range(0, out, step):
        last = min(first + step, out)
        begin, end = first * width, last * width
        some = QuantState(
            absmax=maxima[begin // BLOCK : -(-end // BLOCK)],
            shape=torch.Size((last - first, width)),
            code=state.code,
            blocksize=BLOCK,
            quant_type="nf4",
            dtype=quantised.dtype,
        )
        yield first, dequantize_4bit(packed[begin // 2 : -(-end // 2)], some)


def _experts(quantised: Quantised, read: Read) -> Pieces:
    for first, rows in read(quantised.shape[1]):
        yield first, restored_experts(quantised, rows).view(-1, rows.shape[1])


def restored_experts(quantised: Quantised, rows: torch.Tensor) -> torch.Tensor:
    """Quantises and restores some whole experts of a weight, one expert and a few rows of it at a time.

    Args:
        quantised: the weight.
        rows: of the experts, (experts * out, in).

    Returns:
        (experts, out, in), in the dtype that training restored them in.
    """
    _, out, width = quantised.shape
    whole = torch.empty(len(rows) // out, out, width, dtype=quantised.dtype)
    together = BLOCK // math.gcd(width, BLOCK)
    step = max(together, CPU_STRIDE // width // together * together)
    for expert, matrix in enumerate(rows.view(whole.shape)):
        stack = NF4Stack(1, out, width, dtype=quantised.dtype, device=CPU)
        for first in range(0, out, step):
            stack.fill(first, matrix[first : first + step])
        whole[expert] = stack.whole(0, 1)[0]
    return whole


def _head(quantised: Quantised, read: Read) -> Pieces:
    """By rows in 8 bits; in 4 bits a tile is what bitsandbytes makes of a matrix of its own."""
    if quantised.head == "nf4":
        for first, tile in read(TILE):
            alone = Quantised("linear", quantised.dtype, tuple(tile.shape))
            yield from ((first + inside, rows) for inside, rows in _linear(alone, _as_it_is(tile)))
        return
    for first, rows in read(1):
        head = QuantisedHead.empty(*rows.shape, kind=quantised.head, dtype=quantised.dtype, device=CPU, tile=len(rows))
        head.fill(0, rows.to(quantised.dtype))
        yield first, next(head.tiles())[1]


def _as_it_is(rows: torch.Tensor) -> Read:
    return lambda together: iter([(0, rows)])
