"""Adds everything up: what stays on the device all the time, what comes and goes, and the moment when it is most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from finetune.hardware import CONTEXT_BYTES
from finetune.levers import Levers, Optimizer
from finetune.memory.adapters import TRAINED_BYTES
from finetune.memory.layers import layer_moments
from finetune.memory.loss import loss_moments
from finetune.memory.sharing import Shared, shared, shared_weights
from finetune.memory.variants import Moment
from finetune.memory.weights import WeightCounts, weight_parts
from finetune.memory.widths import Widths

FRAGMENTATION = 0.03
"""Of what comes and goes, lost to gaps between blocks. A guess until the GPU benchmark replaces it."""

WORKSPACE_BYTES = int(0.15 * 2**30)
"""What cuBLAS and the allocator keep beside. A guess until the GPU benchmark replaces it."""

ROTARY_SHARE = 0.25
"""Of each attention head that turns with the position. Source: partial_rotary_factor of the published configs."""

PROCESS_BYTES = 3 * 2**30
"""Host memory of Python, torch and CUDA's libraries. A guess until the GPU benchmark replaces it."""


@dataclass(frozen=True)
class Job:
    """What is asked of the device, whatever the levers."""

    widths: Widths
    weights: WeightCounts
    num_trained: int
    states: Mapping[Optimizer, tuple[int, int]]
    """Optimizer -> bytes of its states that stay on the device, and that can move to the host."""
    rank: int
    """Of the adapters; 0 where every weight is trained."""
    dropout: bool
    nf4: bool
    e: int
    """Bytes of the compute dtype."""
    kernels: bool
    """Whether fla runs Gated DeltaNet's rule."""
    cuda: bool
    length: int
    """Tokens of the longest example."""
    scored_length: int = 0
    """Tokens of the longest held-out example."""
    convolution: bool = True
    """Whether causal_conv1d runs the convolution before Gated DeltaNet's rule."""
    dora: bool = False
    expert_rank: int = 0
    """Of the adapters of each routed expert; 0 where they have none."""
    processes: int = 1
    """That share a step's examples."""
    zero: int = 0
    """DeepSpeed's stage: 1 shares out AdamW's states over the processes, 2 the gradients too."""
    expert: int = 1
    """Processes over which the routed experts are spread."""
    routers: bool = False
    """Whether an auxiliary loss hears what every router says."""

    @property
    def full(self) -> bool:
        """Whether every weight is trained."""
        return self.rank == 0


@dataclass(frozen=True)
class Budget:
    """Bytes of one job under one set of levers."""

    parts: dict[str, int]
    """What the peak is made of; they add up to it."""
    static_bytes: int
    """Of the parts, what stays from the first step to the last, CUDA's context included."""
    moments: dict[str, int]
    """Every moment that might be the peak, with the bytes that are held then."""
    host_parts: dict[str, int]
    """What the host's memory is needed for."""

    @property
    def host_bytes(self) -> int:
        return sum(self.host_parts.values())

    @property
    def peak_bytes(self) -> int:
        return max(self.moments.values())

    @property
    def peak(self) -> str:
        """The moment when most is held."""
        return max(self.moments, key=lambda name: self.moments[name])


def budget(job: Job, levers: Levers, micro_batch: int, *, accumulates: bool = True) -> Budget:
    """Adds up a job's bytes for micro-batches of so many examples, each as long as the longest.

    Args:
        job: what is asked of the device.
        levers: as they are set.
        micro_batch: examples of one.
        accumulates: whether a step has several of them.
    """
    sharing = shared(job.num_trained, processes=job.processes, zero=job.zero, accumulates=accumulates)
    weights, _, whole = _weights(job, levers)
    static, moved = _static(job, levers, weights, sharing)
    held = sum(static.values())
    tokens = micro_batch * job.length
    inputs, offloaded = _inputs(job, levers, tokens)
    beside = sharing.backward | {"frozen weights made whole": whole, "what routers say": _routers(job, tokens)}
    coming: dict[str, dict[str, int]] = {}
    for name, size in _loss(job, levers, tokens).items():
        coming[name] = {"inputs to recompute from": inputs, "loss": size} | beside
    for moment in _layer_moments(job, levers):
        tensors, matrix = moment.bytes(tokens, e=job.e, nf4=job.nf4)
        coming[moment.name] = {
            "inputs to recompute from": inputs,
            "activations of one layer": tensors,
            "matrices made meanwhile": matrix,
        } | beside
        if job.expert > 1:
            coming[moment.name]["tokens of other processes"] = _gathered(job, tokens)
        if job.full and job.widths.tied:  # the head's share of the gradient waits for the embedding's
            coming[moment.name]["vocabulary's gradient"] = _vocabulary_gradient(job)
    if job.full:
        coming["embedding: backward"] = {"vocabulary's gradient": _vocabulary_gradient(job) * (1 + job.widths.tied)}
    if job.scored_length > job.length:
        coming["held-out example: scored"] = {"activations of one layer": _scored(job)}
    if sharing.added_up:
        coming["gradients: added up"] = dict(sharing.added_up)
    coming["optimizer step"] = {"optimizer's temporaries": sharing.step}
    moments = {}
    for name, parts in coming.items():
        parts["gaps between blocks"] = round(FRAGMENTATION * sum(parts.values())) + WORKSPACE_BYTES * job.cuda
        moments[name] = held + sum(parts.values())
    worst = max(moments, key=lambda name: moments[name])
    parts = static | {name: size for name, size in coming[worst].items() if size}
    return Budget(parts, held, moments, _host(job, levers, offloaded, moved, moments[worst]))


def sent_weights(job: Job, levers: Levers) -> int:
    """Gives the bytes of frozen weights of which each process has a share only, and gets the rest to work with them."""
    return _weights(job, levers)[1]


def _weights(job: Job, levers: Levers) -> tuple[dict[str, int], int, int]:
    """The frozen weights of one process, what of all is shared out, and what of that is whole at one time."""
    spread = replace(job.weights, experts=job.weights.experts // job.expert)
    parts = weight_parts(spread, rows=job.widths.vocabulary, nf4=job.nf4, e=job.e, levers=levers)
    return shared_weights(parts, processes=job.processes, zero=job.zero, e=job.e)


def _static(job: Job, levers: Levers, weights: dict[str, int], sharing: Shared) -> tuple[dict[str, int], int]:
    """What stays on the device, and how much of the optimizer's states can leave it."""
    trained, parts = job.num_trained, dict(weights)
    states, moved = job.states[levers.optimizer]
    if job.full:  # every weight is trained, and trained weights are float32
        parts = {"trained weights": TRAINED_BYTES * trained}
    else:
        parts["adapters"] = TRAINED_BYTES * trained
    among = job.processes if job.zero else 1
    parts |= sharing.held | {"optimizer states": -(-states // among)}
    if job.cuda:
        parts["CUDA context"] = CONTEXT_BYTES
    return {name: size for name, size in parts.items() if size}, moved


def _inputs(job: Job, levers: Levers, tokens: int) -> tuple[int, int]:
    """What layers are recomputed from: bytes of these inputs on the device, and on the host."""
    each = tokens * job.widths.hidden * job.e
    pieces = job.widths.num_layers * (2 if levers.recompute == "halves" else 1)
    rotary = round(2 * tokens * ROTARY_SHARE * job.widths.attention_head * job.e)
    if levers.checkpoints == "device":
        return pieces * each + rotary, 0
    return 2 * each + rotary, pieces * each  # the one in use, and the one on its way


def _gathered(job: Job, tokens: int) -> int:
    """What each layer keeps of the tokens of all processes that share its experts: states, choices, their weights."""
    widths = job.widths
    each = widths.hidden * job.e + widths.experts_per_token * (8 + job.e)
    return widths.num_layers * job.expert * tokens * each


def _routers(job: Job, tokens: int) -> int:
    """What the auxiliary loss keeps of every layer: logits, what softmax made of them, and the choices as int64."""
    widths = job.widths
    if not job.routers:
        return 0
    return widths.num_layers * tokens * (2 * job.e * widths.num_experts + 8 * widths.experts_per_token)


def _vocabulary_gradient(job: Job) -> int:
    return TRAINED_BYTES * job.widths.vocabulary * job.widths.hidden


def _layer_moments(job: Job, levers: Levers) -> list[Moment]:
    return layer_moments(
        replace(job.widths, num_experts=job.widths.num_experts // job.expert),
        e=job.e,
        rank=job.rank,
        dropout=job.dropout,
        kernels=job.kernels,
        recompute=levers.recompute,
        convolution=job.convolution,
        dora=job.dora,
        expert_rank=job.expert_rank,
    )


def _scored(job: Job) -> int:
    """A held-out example passes alone and forward only; it is counted as half a layer's backward, which is more."""
    moments = _layer_moments(job, Levers(recompute="halves"))
    return job.scored_length * max(moment.token_bytes for moment in moments)


def _loss(job: Job, levers: Levers, tokens: int) -> dict[str, int]:
    copies = job.e * job.num_trained if job.e == 2 else 0
    return loss_moments(job.widths, tokens, e=job.e, head=levers.head, adapter_copies=copies, trained=job.full)


def _host(job: Job, levers: Levers, offloaded: int, moved: int, peak: int) -> dict[str, int]:
    """The process, what the levers put on the host, and the largest tensor on its way from disk."""
    parts = {
        "process": PROCESS_BYTES,
        "inputs to recompute from, pinned": offloaded,
        "embedding": job.weights.embedding * job.e if levers.embeddings == "host" else 0,
        "optimizer's pages": moved,
        "a tensor being loaded": job.weights.largest * job.e,
        "the training itself": 0 if job.cuda else peak,
    }
    return {name: size for name, size in parts.items() if size}
