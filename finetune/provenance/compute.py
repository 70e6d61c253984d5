"""What a training took: operations, hours, energy. Estimates, each with its formula; none where a figure is unknown."""

from __future__ import annotations

from dataclasses import dataclass, replace

from finetune.cards import GIB, card_named
from finetune.data import Counts
from finetune.errors import ArtifactError
from finetune.hardware import Hardware
from finetune.plan import job_of
from finetune.provenance.facts import Facts
from finetune.run import metrics
from finetune.shape import ModelShape, read_shape
from finetune.speed import attention_flops_per_token, flops_per_token, head_flops_per_token

GRAMS_A_KWH = 445.0
"""Of CO2, world average of 2024. Source: IEA, Electricity 2025, chapter Emissions."""

FLOPS_A_WEIGHT = 6
"""A token: two forward, four backward. Source: Kaplan et al. 2020, arXiv:2001.08361, section 2.1."""


@dataclass(frozen=True)
class Compute:
    """Operations of one training."""

    tokens: int
    """Seen in all passes, padding left out."""
    passes: float
    """Over the examples."""
    active_parameters: int
    """Of the text model, that a token meets."""
    six_flops: float
    """6 x active parameters x tokens, the usual estimate, which counts a gradient of every weight."""
    executed_flops: float
    """Of matrix products, recomputed ones too, attention at the longest example's length."""

    @property
    def flops(self) -> float:
        """The larger estimate, which is the careful one."""
        return max(self.six_flops, self.executed_flops)


@dataclass(frozen=True)
class Energy:
    """What the GPUs of one training took from the socket, at the most."""

    hours: float
    gpus: int
    watts: float
    """Of one whole board at full load, by its maker's sheet."""
    kwh: float
    grams: float
    """Of CO2 at the world's average."""


def compute_of(facts: Facts) -> Compute | None:
    """Counts a training's operations; None where tokens or the base's shapes are not known."""
    counts, shape = Counts(**facts.told["data"]), _shape(facts)
    if shape is None or not counts.tokens or not counts.examples:
        return None
    passes = _passes(facts, counts)
    job = replace(job_of(facts.recipe, shape, Hardware((), 0, 0), counts), expert=1)
    tokens, learnt = counts.tokens * passes, (counts.learnt_tokens or 0) * passes
    executed = tokens * (flops_per_token(job) + attention_flops_per_token(job)) + learnt * head_flops_per_token(job)
    routed, each = job.weights.experts, job.widths.num_experts
    idle = routed - routed * job.widths.experts_per_token // each if each else 0
    active = shape.num_text_parameters - idle
    return Compute(round(tokens), passes, active, FLOPS_A_WEIGHT * active * tokens, executed)


def seconds_of(facts: Facts) -> float:
    """Gives the seconds of the training: of its last start, or of all its steps if a resume made those more."""
    steps = {each["step"]: each["step_seconds"] for each in metrics.read(facts.run.metrics) if "step_seconds" in each}
    return max(float(facts.trained["seconds"]), float(sum(steps.values())))


def energy_of(facts: Facts) -> Energy | None:
    """Estimates a training's energy; None on a CPU or a card whose power is not known."""
    if not facts.plan.gpu:
        return None
    card = card_named(facts.plan.gpu, GIB)
    seconds = seconds_of(facts)
    if card.speed_of or seconds <= 0:
        return None
    kwh = facts.plan.processes * card.watts * seconds / 3.6e6
    return Energy(seconds / 3600, facts.plan.processes, card.watts, kwh, kwh * GRAMS_A_KWH)


def _passes(facts: Facts, counts: Counts) -> float:
    """Counts how often each example was seen, on average."""
    train = facts.recipe.train
    return train.max_steps * train.batch_size / counts.examples if train.max_steps else train.epochs


def _shape(facts: Facts) -> ModelShape | None:
    try:
        return read_shape(facts.recipe.base, facts.base)
    except ArtifactError:
        return None
