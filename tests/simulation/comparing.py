"""Sets what finetune.memory counts beside what the simulation finds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from finetune.levers import Levers
from finetune.memory import Job, budget, count_weights, layer_moments, loss_moments
from finetune.memory.budget import FRAGMENTATION
from finetune.shape import read_shape
from simulation.model import Setting
from simulation.running import layer_peak, loss_peaks, stack_peak

KINDS = {"linear_attn": "gated delta net", "self_attn": "attention"}
"""Block of a layer -> what the moments of that kind begin with."""

E_BYTES = 2
"""bfloat16."""


@dataclass(frozen=True)
class Pair:
    """Bytes of one thing, counted and simulated."""

    what: str
    predicted: int
    simulated: int

    @property
    def apart(self) -> float:
        """By how much of the simulated the predicted is larger."""
        return self.predicted / self.simulated - 1


def compare_layer(setting: Setting, kind: str) -> Pair:
    """Compares the peak of one layer's backward."""
    moments = layer_moments(
        setting.widths,
        e=E_BYTES,
        rank=setting.rank,
        dropout=setting.dropout > 0,
        kernels=setting.kernels,
        recompute=setting.levers.recompute,
        convolution=setting.convolution,
        dora=setting.dora,
        expert_rank=setting.expert_rank,
    )
    tokens = setting.tokens * setting.micro_batch
    halves = setting.levers.recompute == "halves"
    found = []
    for moment in moments:
        is_feed_forward = not any(moment.name.startswith(name) for name in KINDS.values())
        if moment.name.startswith(KINDS[kind]) or is_feed_forward:
            size = sum(moment.bytes(tokens, e=E_BYTES, nf4=setting.nf4))
            # the budget counts the input that the feed-forward is recomputed from among the layers' inputs
            found.append(size + (halves and is_feed_forward) * tokens * setting.widths.hidden * E_BYTES)
    return Pair(kind, max(found), layer_peak(setting, kind).num_bytes)


def compare_stack(setting: Setting) -> Pair:
    """Compares the peak of four layers' backward, the inputs that they are recomputed from included."""
    job = job_of(setting)
    told = budget(job, setting.levers, setting.micro_batch)
    names = [name for name in told.moments if "backward" in name or "forward" in name]
    backward = [told.moments[name] for name in names if not name.startswith("loss")]
    backward += [told.moments[name] for name in told.moments if "norm of" in name or "rows" in name]
    come_and_gone = round((max(backward) - told.static_bytes) / (1 + FRAGMENTATION))
    return Pair("four layers", come_and_gone, stack_peak(setting).num_bytes)


def compare_loss(setting: Setting) -> Iterator[Pair]:
    """Compares the peaks of the loss, forward and backward."""
    tokens = setting.tokens * setting.micro_batch
    told = loss_moments(setting.widths, tokens, e=E_BYTES, head=setting.levers.head, adapter_copies=0)
    simulated = loss_peaks(setting)
    for name, predicted in told.items():
        yield Pair(name, predicted, simulated[name])


def job_of(setting: Setting) -> Job:
    """Describes four layers of a base to the budget, without anything that stays."""
    widths = replace(setting.widths, num_linear_layers=3, num_attention_layers=1)
    return Job(
        widths=widths,
        weights=replace(count_weights(read_shape(setting.base, None)), linears=0, experts=0, others=0),
        num_trained=0,
        states={"adamw": (0, 0)},
        rank=setting.rank,
        dropout=setting.dropout > 0,
        nf4=setting.nf4,
        e=E_BYTES,
        kernels=setting.kernels,
        convolution=setting.convolution,
        dora=setting.dora,
        expert_rank=setting.expert_rank,
        cuda=False,
        length=setting.tokens,
    )


def lever_sets() -> Iterator[Levers]:
    """Yields every set of the levers that change what comes and goes in the layers."""
    for checkpoints in ("device", "host"):
        for recompute in ("layer", "halves"):
            yield Levers(checkpoints=checkpoints, recompute=recompute)
