"""What one process sends to the others in a step, byte by byte, and how long that takes on the links that there are.

Formulas are those of rings: a sum of B bytes that all n get sends 2 (n - 1) / n of B (all-reduce); everybody's B bytes
to everybody n - 1 times B (all-gather); a sum of which each gets its n-th part (n - 1) / n of B (reduce-scatter).
Source: Patarasuk and Yuan 2009, Bandwidth optimal all-reduce algorithms for clusters of workstations.
A test counts what is really given to the collectives by two processes, and finds these bytes.

Nothing is hidden behind arithmetic: stages 0 to 2 add gradients up in turn (DeepSpeed's overlap_comm is off), and a
layer waits for its experts. The handful of bytes by which processes agree on lengths, norms and losses is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from finetune.hardware import Hardware
from finetune.levers import Levers
from finetune.links import inside
from finetune.memory import REDUCED_AT_ONCE, Job, sent_weights
from finetune.memory.adapters import TRAINED_BYTES

INDEX_BYTES = 8
"""Of a router's choice on its way: an int64."""

EXCHANGES = 8
"""Collectives of one layer whose experts are spread: the longest, states, choices, their weights, answers; and in
backward the gradients of answers, states and weights. Source: finetune/experts/to_all.py; a test counts them."""


PASSES = 3
"""Through all layers in a micro-batch, for each of which stage 3 gathers their weights: forward, again, backward."""


@dataclass(frozen=True)
class Wire:
    """Of one process in one optimizer step."""

    parts: dict[str, int]
    """What is sent, in bytes."""
    seconds: float

    @property
    def num_bytes(self) -> int:
        return sum(self.parts.values())


SILENT = Wire({}, 0.0)


def all_reduce(num_bytes: float, processes: int) -> float:
    """Gives the bytes that each process sends to add up so many of everybody's, and to tell all."""
    return 2 * (processes - 1) / processes * num_bytes


def all_gather(num_bytes: float, processes: int) -> float:
    """Gives the bytes that each process sends so that all have its own, and everybody's."""
    return (processes - 1) * num_bytes


def reduce_scatter(num_bytes: float, processes: int) -> float:
    """Gives the bytes that each process sends to add up so many of everybody's, of which each gets its part."""
    return (processes - 1) / processes * num_bytes


def exchanged_bytes(*, tokens: float, size: int, hidden: int, chosen: int, e: int) -> float:
    """Gives the bytes that a process sends for one layer and micro-batch, forward and backward.

    Layers that are recomputed send nothing again. The weights of the choices have the dtype of the states. To more
    processes than experts of a token it is sent by all-to-all, to the owners of its experts alone: to so many as there
    are where routers choose evenly.

    Args:
        tokens: of the process of the group that has most; all are padded to it.
        size: processes that share the layer's experts.
        hidden: width of the states.
        chosen: experts of a token.
        e: bytes of a number.
    """
    states, weights, index = tokens * hidden * e, tokens * chosen * e, tokens * chosen * INDEX_BYTES
    forward = all_gather(states + index + weights, size) + reduce_scatter(size * states, size)
    backward = all_gather(states, size) + reduce_scatter(size * (states + weights), size)
    return (forward + backward) * (owners_share(size, chosen) if size > chosen else 1)


def owners_share(size: int, chosen: int) -> float:
    """Gives the share of a group's processes that hold one at least of a token's experts, drawn evenly."""
    return 1 - (1 - 1 / size) ** chosen


def wire_of(job: Job, levers: Levers, hardware: Hardware, *, micro_steps: int, tokens: float) -> Wire:
    """Says what a process sends in a step.

    Args:
        job: with its ZeRO stage, and the processes that its experts are spread over.
        levers: as they are set.
        hardware: with its links.
        micro_steps: micro-batches of a step.
        tokens: of a micro-batch of the process that has most.
    """
    if job.processes == 1:
        return SILENT
    trained, n = TRAINED_BYTES * job.num_trained, job.processes
    sums = micro_steps if job.zero >= 2 else 1  # who keeps no others' gradients adds up each micro-batch's
    added = reduce_scatter(trained, n) if job.zero == 3 else all_reduce(trained, n)
    parts = {"gradients": sums * added}
    pieces = -(-job.num_trained // REDUCED_AT_ONCE) if job.zero else 1
    seconds = sums * _seconds(added, hardware, n, rounds=2 * pieces)
    if job.zero:
        parts["updated adapters"] = all_gather(trained / n, n)
        seconds += _seconds(parts["updated adapters"], hardware, n, rounds=1)
    if job.zero == 3:
        passes = PASSES * micro_steps
        each = all_gather(sent_weights(job, levers) / n, n)
        parts["frozen weights"] = passes * each
        seconds += passes * _seconds(each, hardware, n, rounds=job.widths.num_layers)
    if job.expert > 1:
        layers, widths = micro_steps * job.widths.num_layers, job.widths
        each = exchanged_bytes(
            tokens=tokens, size=job.expert, hidden=widths.hidden, chosen=widths.experts_per_token, e=job.e
        )
        parts["tokens for routed experts"] = layers * each
        seconds += layers * _seconds(each, hardware, job.expert, rounds=EXCHANGES)
    return Wire({name: round(size) for name, size in parts.items()}, seconds)


def _seconds(num_bytes: float, hardware: Hardware, processes: int, *, rounds: int) -> float:
    """Says how long a ring takes through so many neighbours: the narrowest place decides, and each hop is late.

    Args:
        num_bytes: that each sends to the next.
        hardware: with its links. A ring enters and leaves each machine once.
        processes: of the ring.
        rounds: times that a message goes all the way round.
    """
    link, network = inside(hardware.card), hardware.network
    machines = min(hardware.nodes, -(-processes // hardware.on_each))
    hop = rounds * (processes - machines if machines > 1 else processes - 1)
    if machines == 1:
        return num_bytes / link.bandwidth + hop * link.seconds
    narrowest = min(link.bandwidth, network.of_machine(hardware.on_each))
    return num_bytes / narrowest + hop * link.seconds + rounds * machines * network.seconds
