"""A frozen output head in 8 or 4 bits, of which no more than one tile of rows is ever whole again.

A tile is a run of rows (tokens of the vocabulary) that is quantised and restored alone, so that a loader never holds
the matrix twice and a loss never holds it at all. Both kinds round: of all levers only this one changes numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, Self

import torch
from bitsandbytes import functional as bnb
from torch import nn
from torch.nn import functional

from finetune.memory.loss import TILE
from finetune.memory.weights import BLOCK, NESTED_BLOCK

Kind = Literal["int8", "nf4"]


class QuantisedHead(nn.Module):
    """Stands where a frozen `lm_head` stood: an `nn.Linear` without bias, quantised tile by tile.

    All of its state is persistent buffers. None is cast: `.to(dtype)` moves devices only.
    """

    def __init__(self, num_tokens: int, hidden: int, dtype: torch.dtype, tile: int) -> None:
        super().__init__()
        self.out_features, self.in_features = num_tokens, hidden
        self.dtype, self.tile = dtype, tile

    @staticmethod
    def empty(
        num_tokens: int,
        hidden: int,
        *,
        kind: Kind,
        dtype: torch.dtype,
        device: torch.device | str,
        tile: int = TILE,
    ) -> QuantisedHead:
        """Makes a head whose tiles are still to be filled.

        Args:
            num_tokens: rows, the vocabulary.
            hidden: columns, a multiple of 64.
            kind: "int8", with a scale a row, or "nf4".
            dtype: what tiles are restored in.
            device: where it lies.
            tile: rows of a tile.

        Raises:
            ValueError: a block of NF4 would reach over the end of a row.
        """
        if hidden % BLOCK:
            raise ValueError(f"a head of width {hidden} does not divide into blocks of {BLOCK}")
        make = {"int8": Int8Head, "nf4": NF4Head}[kind]
        return make(num_tokens, hidden, dtype, tile, torch.device(device))

    def fill(self, start: int, rows: torch.Tensor) -> None:
        """Quantises whole tiles; tiles may come in any order.

        Args:
            start: the first row.
            rows: (rows, hidden), in a floating dtype, on any device.

        Raises:
            ValueError: the rows are not whole tiles.
        """
        end = start + len(rows)
        if start % self.tile or (end % self.tile and end != self.out_features) or end > self.out_features:
            raise ValueError(f"rows {start} to {end} are not whole tiles of {self.tile}, of {self.out_features} rows")
        for first in range(start, end, self.tile):
            self._fill_tile(first, rows[first - start : first - start + self.tile].detach())

    def tiles(self, dtype: torch.dtype | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """Restores tile after tile into one buffer, which the next tile overwrites.

        Args:
            dtype: of the tiles, if not the head's own.

        Yields:
            The first row of a tile, and the tile, (rows, hidden).
        """
        device = self.get_buffer("quantised").device
        size = min(self.tile, self.out_features)
        buffer = torch.empty(size, self.in_features, dtype=dtype or self.dtype, device=device)
        for start in range(0, self.out_features, self.tile):
            rows = buffer[: self.out_features - start]
            self._restore_tile(start, rows)
            yield start, rows

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Gives the logits of a few positions, (..., vocabulary), as generation asks for them.

        Raises:
            RuntimeError: a gradient would have to flow; autograd would keep every tile that it came through.
        """
        if torch.is_grad_enabled() and hidden.requires_grad:
            raise RuntimeError("a quantised head has no gradient of its own: token_losses has")
        return torch.cat([functional.linear(hidden, rows) for _, rows in self.tiles()], dim=-1)

    def extra_repr(self) -> str:
        """Tells the size, as nn.Linear does."""
        return f"in_features={self.in_features}, out_features={self.out_features}, tile={self.tile}"

    def _fill_tile(self, start: int, rows: torch.Tensor) -> None:
        raise NotImplementedError

    def _restore_tile(self, start: int, out: torch.Tensor) -> None:
        raise NotImplementedError

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Moves the buffers and keeps their dtypes, the scales' above all."""
        for name, buffer in self._buffers.items():
            assert buffer is not None
            moved = fn(buffer)
            self._buffers[name] = moved if moved.dtype == buffer.dtype else buffer.to(moved.device)
        return self


class Int8Head(QuantisedHead):
    """8 bits a weight and one float32 scale a row: vocabulary * hidden + 4 * vocabulary bytes."""

    quantised: torch.Tensor  # (vocabulary, hidden), int8
    scale: torch.Tensor  # (vocabulary,), float32: the row's absolute maximum / 127

    def __init__(self, num_tokens: int, hidden: int, dtype: torch.dtype, tile: int, device: torch.device) -> None:
        super().__init__(num_tokens, hidden, dtype, tile)
        self.register_buffer("quantised", torch.empty(num_tokens, hidden, dtype=torch.int8, device=device))
        self.register_buffer("scale", torch.empty(num_tokens, dtype=torch.float32, device=device))

    def _fill_tile(self, start: int, rows: torch.Tensor) -> None:
        values = rows.to(self.scale.device, torch.float32)
        scale = values.abs().amax(dim=1) / 127
        steps = (values / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round_()
        self.scale[start : start + len(rows)] = scale
        self.quantised[start : start + len(rows)] = steps.to(torch.int8)

    def _restore_tile(self, start: int, out: torch.Tensor) -> None:
        here = slice(start, start + len(out))
        torch.mul(self.quantised[here], self.scale[here, None], out=out)


class NF4Head(QuantisedHead):
    """4 bits a weight, doubly quantised: 0.515869140625 bytes a weight, 4 a tile, and 1,024 for a table.

    Each tile has an offset of its own where bitsandbytes has one for the matrix; otherwise a tile is just what
    bitsandbytes makes of it.
    """

    quantised: torch.Tensor  # (vocabulary, hidden / 2), uint8
    absmax: torch.Tensor  # (vocabulary, hidden / 64), uint8
    absmax_scale: torch.Tensor  # (blocks of 256 absolute maxima, tile by tile,), float32
    offset: torch.Tensor  # (tiles,), float32: mean of the absolute maxima
    absmax_code: torch.Tensor  # (256,), float32: what the 8 bits of an absolute maximum stand for

    def __init__(self, num_tokens: int, hidden: int, dtype: torch.dtype, tile: int, device: torch.device) -> None:
        super().__init__(num_tokens, hidden, dtype, tile)
        self._scales_per_tile = -(-tile * hidden // (BLOCK * NESTED_BLOCK))
        full, rest = divmod(num_tokens, tile)
        num_scales = full * self._scales_per_tile + -(-rest * hidden // (BLOCK * NESTED_BLOCK))
        for name, shape, stored in (
            ("quantised", (num_tokens, hidden // 2), torch.uint8),
            ("absmax", (num_tokens, hidden // BLOCK), torch.uint8),
            ("absmax_scale", (num_scales,), torch.float32),
            ("offset", (full + bool(rest),), torch.float32),
        ):
            self.register_buffer(name, torch.empty(shape, dtype=stored, device=device))
        self.register_buffer("absmax_code", bnb.create_dynamic_map().to(device, torch.float32))

    def _fill_tile(self, start: int, rows: torch.Tensor) -> None:
        values = rows.to(self.quantised.device).contiguous()
        packed, state = bnb.quantize_4bit(values, blocksize=BLOCK, compress_statistics=True, quant_type="nf4")
        here = slice(start, start + len(rows))
        self.quantised[here] = packed.view(len(rows), -1)
        self.absmax[here] = state.absmax.view(len(rows), -1)
        self.absmax_scale[self._scales(start)] = state.state2.absmax
        self.offset[start // self.tile] = state.offset

    def _restore_tile(self, start: int, out: torch.Tensor) -> None:
        here = slice(start, start + len(out))
        nested = bnb.QuantState(
            absmax=self.absmax_scale[self._scales(start)],
            code=self.absmax_code,
            blocksize=NESTED_BLOCK,
            dtype=torch.float32,
        )
        state = bnb.QuantState(
            absmax=self.absmax[here].flatten(),
            shape=out.shape,
            dtype=out.dtype,
            blocksize=BLOCK,
            quant_type="nf4",
            offset=self.offset[start // self.tile],
            state2=nested,
        )
        packed = self.quantised[here].reshape(-1, 1)
        if out.is_cuda:
            bnb.dequantize_4bit(packed, state, out=out)
        else:  # bitsandbytes 0.50 fills a given tensor on CUDA only
            out.copy_(bnb.dequantize_4bit(packed, state))

    def _scales(self, start: int) -> slice:
        first = start // self.tile * self._scales_per_tile
        return slice(first, first + self._scales_per_tile)
