"""NF4 with double quantisation, done piece by piece, so that a weight never stands whole beside its 4 bits.

Blocks of 64 weights are quantised alone in any case; only the scales of the blocks are quantised by what they are
together, once all of them are there. The result is that of `bitsandbytes.functional.quantize_4bit`, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from bitsandbytes.functional import QuantState, quantize_4bit, quantize_blockwise
from bitsandbytes.nn import Params4bit

from finetune.memory.weights import NESTED_BLOCK

CPU_STRIDE = 2**18
"""Weights that a CPU quantises at a time. bitsandbytes 0.50 copies them five times over on its way; in strides of a
megabyte that is as fast, and the heap ends with 5 MB more than the weights and not with 200. A multiple of any block.
"""

Fill = Callable[[int, torch.Tensor], None]
"""Takes rows of a weight, and which row they begin with."""


def quantiser(module: Any, dtype: torch.dtype, device: torch.device) -> Fill:
    """Gives the function that takes a weight row by row, in order, and sets it in the module after the last.

    Args:
        module: a `Linear4bit` whose weight is on the meta device, (out, in).
        dtype: that the weight is quantised from, and dequantised to.
        device: where it is quantised, and stays.
    """
    shape, wanted = module.weight.shape, module.weight
    assert wanted.compress_statistics, "the plan quantises twice"
    packed = torch.empty(((shape.numel() + 1) // 2, 1), dtype=torch.uint8, device=device)  # two weights a byte
    scales = torch.empty(-(-shape.numel() // wanted.blocksize), dtype=torch.float32, device=device)

    def fill(first: int, rows: torch.Tensor) -> None:
        at = first * shape[1]
        for some in rows.flatten().split(CPU_STRIDE if device.type == "cpu" else rows.numel()):
            piece, state = quantize_4bit(some.to(dtype), blocksize=wanted.blocksize, quant_type=wanted.quant_type)
            packed[at // 2 : at // 2 + len(piece)] = piece
            scales[at // wanted.blocksize : at // wanted.blocksize + len(state.absmax)] = state.absmax
            at += some.numel()
        if at == shape.numel():
            _set(module, packed, _twice(scales, state, shape))

    return fill


def _twice(scales: torch.Tensor, of_a_piece: QuantState, shape: torch.Size) -> QuantState:
    """Quantises the scales in their turn, around their mean over the whole weight."""
    offset = scales.mean()
    codes, nested = quantize_blockwise(scales - offset, blocksize=NESTED_BLOCK)
    return QuantState(
        absmax=codes,
        shape=shape,
        code=of_a_piece.code,
        blocksize=of_a_piece.blocksize,
        quant_type=of_a_piece.quant_type,
        dtype=of_a_piece.dtype,
        offset=offset,
        state2=nested,
    )


def _set(module: Any, packed: torch.Tensor, state: QuantState) -> None:
    module.weight = Params4bit(
        packed,
        requires_grad=False,
        quant_state=state,
        blocksize=state.blocksize,
        compress_statistics=True,
        quant_type=state.quant_type,
        quant_storage=packed.dtype,
        module=module,
        bnb_quantized=True,
    )
    module.quant_state = state
