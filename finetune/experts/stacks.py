"""The frozen weights of the routed experts: as they are, or in NF4, of which a few experts at a time are made whole.

In NF4 every expert is quantised alone, to what `bitsandbytes.functional.quantize_4bit` makes of its matrix with
`compress_statistics=True`, bit for bit. So its bytes are the same whichever process holds it.
"""

from __future__ import annotations

from typing import cast

import torch
from bitsandbytes import functional as bnb
from torch import nn

from finetune.memory.mixture import experts_at_once
from finetune.memory.weights import BLOCK, NESTED_BLOCK


class PlainStack(nn.Module):
    """One weight of some experts in the dtype of the arithmetic."""

    weight: torch.Tensor

    def __init__(self, experts: int, out: int, into: int, *, dtype: torch.dtype, device: torch.device | str) -> None:
        super().__init__()
        self.at_once, self.out_features, self.in_features = experts, out, into
        self.register_buffer("weight", torch.empty(experts, out, into, dtype=dtype, device=device))

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.weight.device

    def fill(self, first: int, rows: torch.Tensor) -> None:
        """Takes rows of the flattened weight, (rows, in), and which row they begin with."""
        self.weight.view(-1, self.in_features)[first : first + len(rows)].copy_(rows)

    def whole(self, first: int, last: int) -> torch.Tensor:
        """Gives the weights of some experts, (last - first, out, in): themselves."""
        return self.weight[first:last]


class NF4Stack(nn.Module):
    """One weight of some experts in 4 bits, and the scales of its blocks in 8. All of its state is buffers."""

    packed: torch.Tensor
    """(experts, out * in / 2) uint8: two weights a byte."""
    scales: torch.Tensor
    """(experts, out * in / 64) uint8."""
    nested: torch.Tensor
    """(experts, out * in / 64 / 256, rounded up) float32."""
    offset: torch.Tensor
    """(experts,) float32: the mean of an expert's scales, around which they were quantised."""

    def __init__(self, experts: int, out: int, into: int, *, dtype: torch.dtype, device: torch.device | str) -> None:
        """Makes a stack whose weights are still to be filled.

        Args:
            experts: of them.
            out: rows of one expert's matrix.
            into: columns; a matrix is a whole number of blocks of 64.
            dtype: what weights are quantised from and made whole in.
            device: where they lie.
        """
        super().__init__()
        size = out * into
        assert size % BLOCK == 0, f"an expert of {out} x {into} is no whole number of blocks"
        self.out_features, self.in_features, self.dtype = out, into, dtype
        self.at_once = experts_at_once(experts, size, dtype.itemsize)
        blocks = size // BLOCK
        shapes = {"packed": (size // 2,), "scales": (blocks,), "nested": (-(-blocks // NESTED_BLOCK),), "offset": ()}
        for name, shape in shapes.items():
            kind = torch.uint8 if name in ("packed", "scales") else torch.float32
            self.register_buffer(name, torch.empty(experts, *shape, dtype=kind, device=device))
        self._filled = 0
        self._maxima: torch.Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.packed.device

    def fill(self, first: int, rows: torch.Tensor) -> None:
        """Takes rows of the flattened weight, whole blocks of them; after the last row the scales are quantised.

        Args:
            first: which row they begin with; any order does.
            rows: (rows, in).
        """
        experts, blocks = self.scales.shape
        if self._maxima is None:
            self._maxima = torch.empty(experts * blocks, dtype=torch.float32, device=self.packed.device)
        at = first * self.in_features // BLOCK
        values = rows.to(self.packed.device, self.dtype).contiguous()
        packed, state = bnb.quantize_4bit(values, blocksize=BLOCK, quant_type="nf4")
        self.packed.view(-1)[at * BLOCK // 2 :][: packed.numel()] = packed.view(-1)
        self._maxima[at : at + len(state.absmax)] = state.absmax
        self._filled += len(rows)
        if self._filled == experts * self.out_features:
            self._quantise_scales(self._maxima.view(experts, blocks))
            self._maxima = None

    def whole(self, first: int, last: int) -> torch.Tensor:
        """Gives the weights of some experts, restored, (last - first, out, in)."""
        count, blocks = last - first, self.scales.shape[1]
        state = bnb.QuantState(
            absmax=self._maxima_of(first, last).flatten(),
            shape=torch.Size((count * self.out_features, self.in_features)),
            code=_code("nf4", self.packed.device),
            blocksize=BLOCK,
            quant_type="nf4",
            dtype=self.dtype,
        )
        assert count * blocks == state.absmax.numel()
        weights = bnb.dequantize_4bit(self.packed[first:last].view(-1, 1), state)
        return cast("torch.Tensor", weights).view(count, self.out_features, self.in_features)

    def _quantise_scales(self, maxima: torch.Tensor) -> None:
        for expert, scales in enumerate(maxima):
            self.offset[expert] = scales.mean()
            codes, state = bnb.quantize_blockwise(scales - self.offset[expert], blocksize=NESTED_BLOCK)
            self.scales[expert], self.nested[expert] = codes, state.absmax

    def _maxima_of(self, first: int, last: int) -> torch.Tensor:
        """Restores the absolute maxima of some experts' blocks, (last - first, blocks) float32."""
        codes = self.scales[first:last]
        of_each = self.nested[first:last].repeat_interleave(NESTED_BLOCK, dim=1)[:, : codes.shape[1]]
        return _code("dynamic", codes.device)[codes.int()] * of_each + self.offset[first:last, None]


_codes: dict[tuple[str, torch.device], torch.Tensor] = {}


def _code(kind: str, device: torch.device) -> torch.Tensor:
    """Gives the values that the codes of a quantisation mean, float32, once for each device."""
    if (kind, device) not in _codes:
        made = bnb.get_4bit_type("nf4", device=device) if kind == "nf4" else bnb.create_dynamic_map().to(device)
        _codes[kind, device] = made
    return _codes[kind, device]
