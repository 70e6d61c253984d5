"""What one decoder layer holds while backward goes through it: the tensors of its worst moments, counted by hand.

A token's bytes are written as the code makes its tensors: 4 is a float32 copy, `e` the bytes of the compute dtype.
The code is transformers 5.23 (modeling_qwen3_5.py), PEFT 0.21 (tuners/lora/bnb.py) under autocast, PyTorch's flash
attention, and for Gated DeltaNet either fla-core 0.6 (ops/gated_delta_rule/chunk.py), whose locals live to the end of
its backward, or transformers' torch reference. tests/simulation runs that code without data and compares: the figures
agree within 3 %. A moment of the forward pass is one of its second run, when gradients of what follows exist already.
"""

from __future__ import annotations

from dataclasses import replace

from finetune.levers import Recompute
from finetune.memory.mixture import routed_moments, transformers_routed_moments
from finetune.memory.variants import Mixer, Moment, with_dora, with_dropout, with_trained_weights
from finetune.memory.widths import Widths

CHUNK = 64
"""Tokens of a chunk of Gated DeltaNet, in fla and in the reference alike."""


def layer_moments(
    widths: Widths,
    *,
    e: int,
    rank: int,
    dropout: bool,
    kernels: bool,
    recompute: Recompute,
    convolution: bool = True,
    dora: bool = False,
    expert_rank: int = 0,
) -> list[Moment]:
    """Lists the moments that may be the peak of one layer's backward.

    Args:
        widths: of the base.
        e: bytes of the compute dtype.
        rank: of the adapters; 0 where every weight is trained.
        dropout: whether the adapters' inputs are dropped out, each in a copy with a mask of one byte a number.
        kernels: whether fla runs Gated DeltaNet's rule.
        recompute: whether a layer's two halves are alive together.
        convolution: whether causal_conv1d runs the convolution before the rule; torch's saves its output too.
        dora: whether the adapters are DoRA's.
        expert_rank: of the adapters of each routed expert; 0 where they have none.

    Returns:
        The moments; none counts the inputs that the halves are recomputed from.
    """
    feed_forward = _feed_forward(widths, e, rank, expert_rank, dropout and expert_rank > 0)
    mixers = []
    if widths.num_linear_layers:
        mixers.append(_gated_delta_net(widths, e, rank, kernels, convolution))
    if widths.num_attention_layers:
        mixers.append(_attention(widths, e, rank))
    for wanted, change in ((dropout and rank, with_dropout), (dora, with_dora), (not rank, with_trained_weights)):
        if wanted:
            mixers, feed_forward = change(widths, e, mixers, feed_forward)
    moments = [moment for mixer in mixers for moment in mixer.moments]
    if recompute == "halves":
        return moments + feed_forward
    return moments + [
        replace(
            moment,
            name=f"{mixer.kind} layer, {moment.name}",
            token_bytes=moment.token_bytes + mixer.saved,
            once=moment.once + mixer.once,
        )
        for mixer in mixers
        for moment in feed_forward
    ]


def _norm(widths: Widths, e: int) -> int:
    """RMSNorm before a half: its input in float32, one factor, its output."""
    return 4 * widths.hidden + 4 + e * widths.hidden


def _feed_forward(widths: Widths, e: int, rank: int, expert_rank: int, dropout: bool) -> list[Moment]:
    """The dense feed-forward, or router, routed experts and shared expert."""
    gradient = e * widths.hidden
    around = _norm(widths, e) + gradient + 2 * e * rank
    wide = e * widths.feed_forward
    if not widths.num_experts:
        return [
            # gate, silu(gate), up; the gradients of their product through the adapter and through the base
            Moment("feed-forward: down_proj backward", around + 5 * wide, widths.hidden * widths.feed_forward),
            # and the sum of both, or the product taken apart again
            Moment("feed-forward: product backward", around + 6 * wide),
        ]
    if not rank:
        return transformers_routed_moments(widths, e=e, around=around)
    return routed_moments(widths, e=e, around=around, expert_rank=expert_rank, dropout=dropout)


def _attention(widths: Widths, e: int, rank: int) -> Mixer:
    """Gated full attention."""
    query, key_value, heads = widths.query, widths.key_value, widths.query // widths.attention_head
    flow = e * widths.hidden
    before = _norm(widths, e) + 4 * query + 4 * heads
    # k in float32; q, k, v; the output and the logarithm of its sum
    inside = 4 * key_value + e * (query + 2 * key_value) + e * query + 4 * heads + 4 * e * rank
    after = 3 * e * query  # the output once more, sigmoid(gate), their product
    gate = e * query
    # dq, dk and dv; dq in float32; dk and dv of every query head
    flash = flow + 2 * gate + e * (query + 2 * key_value) + 4 * query + 2 * e * query + 4 * heads
    moments = [
        Moment("attention: flash backward", before + inside + flash),
        # five float32 tensors of the norm's backward beside its saved input
        Moment("attention: norm of the queries", before + 2 * flow + gate + 5 * 4 * query),
        # two gradients of the layer's output, the gate, and the output
        Moment("attention: o_proj forward", before + inside + after + 3 * flow + gate, widths.hidden * query),
    ]
    return Mixer("attention", before + inside + after, moments)


def _gated_delta_net(widths: Widths, e: int, rank: int, kernels: bool, convolution: bool) -> Mixer:
    """Gated DeltaNet."""
    value, key, heads = widths.value, widths.key, widths.value_heads
    convolved = e * (2 * key + value)
    before = _norm(widths, e) + convolved + heads * (4 + e) + 3 * e * rank
    gated_norm = 3 * 4 * value + 4 * heads + 2 * e * value  # state, gate, silu in float32; normed, and the product
    states = heads * widths.head * widths.head // CHUNK  # entries of one chunk's states, shared out to its tokens
    gradients = e * widths.hidden + 2 * e * value  # of the layer's output, of the rule's, of the gate z
    if not kernels:
        rule, growth = _reference_rule(widths, e, states)
        worst = before + (1 + (not convolution)) * convolved + rule + growth + gradients
        moments = [Moment("gated delta net: torch reference backward", worst)]
        return Mixer("gated delta net", before + (not convolution) * convolved + rule + gated_norm, moments)
    rule = e * (2 * key + value) + 4 * heads + e * CHUNK * heads + 8 * key // widths.head
    # of all heads: w, u, new v, dv, dw, dk2 and dv again; dq and dk, which are summed where key heads serve several
    of_keys = 2 * e * value if key == value else 3 * e * key
    inner = 7 * e * value + of_keys + 2 * e * states  # and the states of every chunk, forward and backward
    inner += heads * (8 + e)
    before += 0 if convolution else convolved
    saved = before + rule + gated_norm
    # forward keeps the names of the convolution's output and of z to its end, and has two gradients of the output
    frame = saved + 2 * e * widths.hidden + convolved + e * value
    moments = [
        Moment("gated delta net: rule backward", before + rule + inner + gradients),
        Moment("gated delta net: gated norm forward", frame + 4 * value + e * value),
        Moment("gated delta net: out_proj forward", frame + e * widths.hidden, widths.hidden * value),
    ]
    return Mixer("gated delta net", saved, moments)


def _reference_rule(widths: Widths, e: int, states: int) -> tuple[int, int]:
    """transformers' torch reference: what it saves, and what its backward adds to that."""
    value, square = 4 * widths.value, 4 * CHUNK * widths.value_heads
    saved = 8 * value + 2 * square + 4 * states
    if e == 2:  # autocast keeps a bfloat16 copy of every factor of a product
        saved += 9 * e * widths.value + 3 * e * CHUNK * widths.value_heads + 2 * e * states
    return saved, 6 * value + square
