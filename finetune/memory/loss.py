"""What the final norm, the output head and the loss hold: tiles of logits, never all of them."""

from __future__ import annotations

from finetune.levers import Head
from finetune.memory.widths import Widths

CHUNK = 1024
"""Tokens whose product with a tile exists at one time."""
TILE = 8192
"""Rows of the head in a tile. In bfloat16, 5,120 wide, a restored tile holds 84 MB; smaller ones starve the GPU."""

STATISTICS_BYTES = 48
"""Of each learnt token: maximum, sums, target's logit, likeliest token. Source: finetune.model.losses."""


def loss_moments(
    widths: Widths, tokens: int, *, e: int, head: Head, adapter_copies: int, trained: bool = False
) -> dict[str, int]:
    """Counts the bytes of the loss in its forward and its backward pass, every token taken as learnt.

    Args:
        widths: of the base.
        tokens: of the micro-batch, padding included.
        e: bytes of the compute dtype.
        head: its precision; a quantised one is restored a tile at a time.
        adapter_copies: bytes of the 16-bit copies of the adapters that autocast keeps until forward is over.
        trained: whether the head is trained in float32: then its gradient is made whole, and a tile of it once more.
    """
    chunk, tile = min(tokens, CHUNK), min(widths.vocabulary, TILE)
    rows = tile * widths.hidden * e if head != "full" or (trained and e != 4) else 0
    rows += tile * widths.hidden * 4 // 64 if head == "nf4" else 0  # the maxima of its blocks
    product = chunk * tile * e if e != 4 else 0
    scratch = chunk * tile * 4
    wide = tokens * 4 * widths.hidden  # a float32 tensor of all states
    norm = wide + 4 * tokens  # the final norm's input and one factor, to the end of its backward
    states = tokens * e * widths.hidden  # of the learnt tokens
    of_head = trained * 4 * widths.hidden * (widths.vocabulary + tile)
    forward = 2 * states + rows + product + 2 * scratch + tokens * STATISTICS_BYTES
    backward = states + max(rows + product + scratch + wide, wide + states) + of_head
    return {
        "loss: forward": norm + max(forward, 2 * wide) + adapter_copies,
        # the norm's own backward makes five float32 tensors
        "loss: backward": norm + max(backward, 5 * wide),
    }
