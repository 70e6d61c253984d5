"""How long a step takes, by a roofline: the work of each kind over the speed of what does it.

Nothing here was timed on a GPU yet: efficiencies are guesses until the benchmark replaces them, and the answer is good
for comparing two plans, not for a promise. Sources: the traffic of a layer was counted by running transformers' code
without data; kernel times are those published for fla on an H200.
"""

from __future__ import annotations

from dataclasses import dataclass

from finetune.cards import Card
from finetune.levers import Levers
from finetune.memory import Job

EFFICIENCY = {"rtx3090": 0.88, "rtx4090": 0.88, "a10": 0.6, "l4": 0.48, "h100": 0.66, "h200": 0.9}
"""Of a card's bf16 peak that large products reach. Guesses; a card that is not listed gets CONSUMER or SERVER."""
CONSUMER, SERVER = 0.85, 0.6
BANDWIDTH_SHARE = 0.9
"""Of the memory bandwidth that streaming kernels reach."""

TRAFFIC_PASSES = 63
"""Times that a tensor as wide as all outputs of a layer's linears is read or written, besides the products.

7.73 MB a token and layer of the 27B (forward 1.95, backward with recomputation 4.87, adapters 0.91), whose linears have
61,440 outputs of 2 bytes in a Gated DeltaNet layer.
"""

DEQUANTISED_PASSES = 3
"""Each NF4 matrix is dequantised in forward, in the recomputed forward and in backward."""
DEQUANTISED_BYTES = 2.516
"""A weight: 0.516 read, 2 written."""

RULE_SECONDS = 168e-3 / 8192 / 48 / 6144
RULE_BANDWIDTH = 4.8e12
"""fla's forward twice and backward once, a token, layer and value channel, on an H200 of that bandwidth.

Source: FlashQLA's benchmark_results_H200.txt, 27B head shapes, 8,192 tokens.
"""

REFERENCE_SLOWDOWN = 4
"""Of a step whose Gated DeltaNet runs on transformers' torch reference. Source: LLaMA-Factory issue 10221, 27B."""

SKEW = 1.3
"""Rows of the process whose experts are chosen most, as a multiple of the mean, where experts are spread. A guess."""

LAUNCHES = 264
"""Operations of one layer in a micro-step, forward, recomputed and backward. Source: transformers' code, counted."""
LAUNCH_SECONDS = {"cuda": 5e-6, "cpu": 20e-6}
"""Of one operation that does nothing. On a GPU a usual figure; on a CPU measured with the demo base, whose steps of 16
examples took 1.35 s in micro-batches of 1, 1.08 of 4 and 1.22 of 16, padding included."""

UNHIDDEN = 0.1
"""Of the copies to and from the host that compute does not hide. A guess."""

CPU = Card("cpu", 0, 4e10, 2e10, 2e10, 65, (0, 0))
"""Two cores: 1,213 tokens/s of the demo base, 35 MFLOP each, were measured; its memory figures are guesses."""


@dataclass(frozen=True)
class Work:
    """One optimizer step's worth of tokens, as the trainer will lay them out."""

    tokens: float
    """Padding included."""
    learnt: float
    """Tokens that reach the output head."""
    micro_steps: int


def flops_per_token(job: Job) -> float:
    """Counts the FLOP of products with a layer's weights, a token: forward, forward again, gradient of the input.

    Each is two a weight; a trained weight's own gradient is two more. Adapters take eight a number.
    """
    dense = job.weights.linears
    if job.widths.num_experts:
        dense += _active(job) if job.expert == 1 else round(SKEW * _active(job))
    return (8 if job.full else 6) * dense + (0 if job.full else 8 * job.num_trained)


def _active(job: Job) -> int:
    """Counts the weights of the routed experts that a token goes to."""
    return job.weights.experts * job.widths.experts_per_token // job.widths.num_experts


def attention_flops_per_token(job: Job) -> float:
    """Counts the FLOP of causal attention, a token of an example of the longest length; backward costs 2.5 forwards."""
    return 9 * job.widths.num_attention_layers * job.widths.query * job.length


def head_flops_per_token(job: Job) -> float:
    """Counts the FLOP of the output head, a learnt token: the product, the product again, its gradient."""
    widths = job.widths
    return (8 if job.full else 6) * widths.vocabulary * widths.hidden


def step_seconds(job: Job, levers: Levers, work: Work, card: Card) -> float:
    """Estimates the seconds of one optimizer step."""
    flops = work.tokens * (flops_per_token(job) + attention_flops_per_token(job))
    flops += work.learnt * head_flops_per_token(job)
    compute = flops / (card.bf16_flops * efficiency(card))
    bandwidth = card.memory_bandwidth * BANDWIDTH_SHARE
    moved = work.tokens * _traffic_per_token(job)
    if job.nf4:
        quantised = job.weights.linears + job.weights.experts // job.expert
        moved += work.micro_steps * DEQUANTISED_PASSES * DEQUANTISED_BYTES * quantised
    if levers.head != "full":
        moved += work.micro_steps * 2 * DEQUANTISED_BYTES * job.weights.head
    rule = work.tokens * RULE_SECONDS * job.widths.num_linear_layers * job.widths.value
    busy = compute + moved / bandwidth + rule * RULE_BANDWIDTH / card.memory_bandwidth
    if job.cuda and not job.kernels:
        busy *= REFERENCE_SLOWDOWN
    launched = work.micro_steps * job.widths.num_layers * LAUNCHES * LAUNCH_SECONDS["cuda" if job.cuda else "cpu"]
    busy = max(busy, launched) if job.cuda else busy + launched  # a GPU computes while the next ones are launched
    copied = _offloaded_per_token(job, levers) * work.tokens / card.host_bandwidth
    hidden = max(busy, copied) + UNHIDDEN * min(busy, copied)
    return hidden + _optimizer_seconds(job, levers, card)


def efficiency(card: Card) -> float:
    """Gives the share of a card's bf16 peak that large products reach."""
    if not card.bf16_flops or card.name == "cpu":
        return 1.0
    return EFFICIENCY.get(card.speed_of or card.name, CONSUMER if card.name.startswith("rtx") else SERVER)


def _traffic_per_token(job: Job) -> float:
    widths = job.widths
    mixer = widths.num_linear_layers * (2 * widths.key + 2 * widths.value)
    mixer += widths.num_attention_layers * 2 * (widths.query + widths.key_value)
    feed_forward = 2 * widths.feed_forward + widths.experts_per_token * (2 * widths.expert + widths.hidden)
    outputs = mixer + widths.num_layers * (feed_forward + 2 * widths.hidden)
    return TRAFFIC_PASSES * job.e * outputs


def _offloaded_per_token(job: Job, levers: Levers) -> float:
    """Bytes a token to the host and back."""
    if levers.checkpoints == "device":
        return 0
    return 2 * job.widths.num_layers * (2 if levers.recompute == "halves" else 1) * job.widths.hidden * job.e


def _optimizer_seconds(job: Job, levers: Levers, card: Card) -> float:
    stay, move = job.states[levers.optimizer]
    on_device = (3 * 4 * job.num_trained + 2 * stay) / (job.processes if job.zero else 1)
    return on_device / (card.memory_bandwidth * BANDWIDTH_SHARE) + 2 * move / card.host_bandwidth
