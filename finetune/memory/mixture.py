"""What the routed experts of one layer hold while backward goes through them: our own (finetune.experts), or, where
every weight is trained, transformers'.

Rows are counted as if every expert got its share of them. All of a layer's rows are there whatever the router does, and
so is all that is kept of them; what one turn makes, of the experts that are whole just then, grows with their rows.
"""

from __future__ import annotations

from finetune.memory.variants import Moment
from finetune.memory.widths import Widths

WHOLE_BYTES = 128 * 2**20
"""Of routed experts in NF4, made whole at one time for their products: a dozen and more of the 35B-A3B's."""

ALIGNMENT = 16
"""Bytes that a row of a grouped product's matrix is a multiple of. Source: torch 2.13, ATen/native/GroupedMMUtils.h."""


def experts_at_once(num_experts: int, weights: int, e: int) -> int:
    """Tells how many experts in NF4 are made whole at one time.

    Args:
        num_experts: that are held here.
        weights: of one expert's matrix.
        e: bytes of the compute dtype.
    """
    return max(1, min(num_experts, WHOLE_BYTES // (weights * e)))


def padding(width: int, e: int) -> int:
    """Tells how many numbers of `e` bytes a grouped product's matrix lacks in width to be whole 16 bytes."""
    return -width % (ALIGNMENT // e)


def routed_moments(widths: Widths, *, e: int, around: int, expert_rank: int, dropout: bool) -> list[Moment]:
    """Lists the moments of our routed experts that may be the peak.

    Args:
        widths: of the base, `num_experts` those that are held here.
        e: bytes of the compute dtype.
        around: bytes a token that the layer holds besides.
        expert_rank: of each expert's adapters; 0 where they have none.
        dropout: whether the adapters' inputs are dropped out.
    """
    hidden, inner, chosen = widths.hidden, widths.expert, widths.experts_per_token
    row, narrow, rank = chosen * e * hidden, chosen * e * inner, expert_rank + padding(expert_rank, e)
    # softmax and logits of the router; what the shared expert keeps, and its output; order, choices and their weights
    saved = around + (4 + e) * widths.num_experts + 4 * e * widths.feed_forward + e * hidden + 44 * chosen
    saved += 2 * chosen * e * rank
    # rows; gate and up, silu(gate), their product, and it weighed; what adapters read, and which of it was dropped
    kept = row + 5 * narrow + dropout * (row + row // e + narrow // e)
    copies = e * widths.num_experts * rank
    of_down, of_gate_up = copies * (inner + hidden), copies * (2 * inner + hidden)
    weights = hidden * inner
    at_once = experts_at_once(widths.num_experts, weights, e)
    turn = at_once / widths.num_experts if at_once < widths.num_experts else 0.0
    return [
        Moment("routed experts: rows added up", saved + e * hidden + kept + 2 * row, once=of_down + of_gate_up),
        Moment(
            "routed experts: down_proj backward",
            saved + kept + row + narrow + round(turn * narrow),
            at_once * weights,
            of_down + of_gate_up - copies * hidden,
        ),
    ]


def transformers_routed_moments(widths: Widths, *, e: int, around: int) -> list[Moment]:
    """Lists the moment of transformers' routed experts that may be the peak."""
    routed, wide = widths.experts_per_token * e, e * widths.feed_forward
    saved = around + 4 * wide + 4 * widths.num_experts + 2 * e * widths.hidden
    experts = routed * (2 * widths.expert + widths.expert + widths.hidden)  # gate_up, silu, down
    scattered = 3 * routed * widths.hidden  # the rows' gradients: gathered, zeros, scattered
    return [Moment("routed experts: gradients of the rows", saved + experts + scattered)]
