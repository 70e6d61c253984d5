"""What the final norm, the output head and the loss hold: tiles of logits, never all of them."""

from __future__ import annotations

from finetune.levers import Head
from finetune.memory.widths import Widths

CHUNK, TILE = 1024, 8192
"""Tokens and rows of the vocabulary whose product exists at one time: those of finetune.model.losses and .head."""

STATISTICS_BYTES = 48
"""Of each learnt token: maximum, sums, target's logit, likeliest token. Source: finetune.model.losses."""


def loss_moments(widths: Widths, tokens: int, *, e: int, head: Head, adapter_copies: int) -> dict[str, int]:
    """Counts the bytes of the loss in its forward and its backward pass, every token taken as learnt.

    Args:
        widths: of the base.
        tokens: of the micro-batch, padding included.
        e: bytes of the compute dtype.
        head: its precision; a quantised one is restored a tile at a time.
        adapter_copies: bytes of the 16-bit copies of the adapters that autocast keeps until forward is over.
    """
    chunk, tile = min(tokens, CHUNK), min(widths.vocabulary, TILE)
    rows = tile * widths.hidden * e if head != "full" else 0
    product = chunk * tile * e if e != 4 else 0
    scratch = chunk * tile * 4
    # the final norm's input in float32 and its output; the states of the learnt tokens
    states = tokens * (4 * widths.hidden + 4 + 2 * e * widths.hidden)
    gradients = tokens * (4 + e) * widths.hidden  # in float32, then cast
    return {
        "loss: forward": states + rows + product + 2 * scratch + tokens * STATISTICS_BYTES + adapter_copies,
        "loss: backward": states + max(rows + product + scratch + tokens * 4 * widths.hidden, gradients),
    }
