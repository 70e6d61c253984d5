"""Every set of levers that may be pulled for a job, what each holds and takes, and which of them is best."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from finetune.cards import Card
from finetune.data import Counts
from finetune.hardware import Hardware
from finetune.levers import POSITIONS
from finetune.memory import Budget, Job, budget
from finetune.plan.record import Choices
from finetune.plan.ways import WHOLE, Way, ways
from finetune.plan.wire import SILENT, Wire, wire_of
from finetune.recipe import Recipe
from finetune.speed import CPU, Work, step_seconds

MICRO_BATCH_TOKENS = {"cuda": 65_536, "cpu": 4096}
"""Padded tokens of one forward pass beyond which larger ones are not looked at: they are no faster."""

SAFE = 1 / 1.03
"""Of the device's bytes that a set may fill without counting on the last digits of the arithmetic."""

NEARLY = 1.02
"""Two sets whose steps take within so much of each other are equally fast to a roofline; the plainer one is taken."""


SURE = 0.85
"""Experts that fit whole are spread only for a step of so much of its time: a router may skew more than is counted."""


@dataclass(frozen=True)
class Candidate:
    """One set of levers, with its consequences."""

    choices: Choices
    budget: Budget
    seconds: float
    """Of an optimizer step, what is on the wire included."""
    fits: bool
    way: Way = WHOLE
    wire: Wire = SILENT

    @property
    def num_pulled(self) -> int:
        """How many levers are away from the plain stack; sharing out anything but examples counts as one too."""
        pulled: int = sum(getattr(self.choices, name) != positions[0] for name, positions in POSITIONS.items())
        return pulled + int(self.way.zero > 0) + int(self.way.expert > 1)


@dataclass(frozen=True)
class Room:
    """What there is to fit into."""

    device_bytes: int
    host_bytes: int
    """Infinite in effect where a machine was only wished for."""
    card: Card | None

    def holds(self, needed: Budget) -> bool:
        """Tells whether a job fits, on the device and on the host."""
        return self.lacks(needed) == (0, 0)

    def lacks(self, needed: Budget) -> tuple[int, int]:
        """Says how many bytes a job has too little of, on the device and on the host."""
        return max(0, needed.peak_bytes - self.device_bytes), max(0, needed.host_bytes - self.host_bytes)


def candidates(recipe: Recipe, job: Job, room: Room, counts: Counts, hardware: Hardware) -> list[Candidate]:
    """Works out every set of levers that the recipe leaves open, in every way of sharing out that it does."""
    found = []
    for way in ways(recipe, job, hardware):
        shared = replace(job, zero=way.zero, expert=way.expert)
        for choices in _open(recipe, shared):
            needed = budget(shared, choices, choices.micro_batch, accumulates=choices.accumulation > 1)
            work = work_of(recipe, counts, job.length, choices, job.processes)
            most = choices.micro_batch * padded_length(counts, job.length, choices.micro_batch * way.expert)
            wire = wire_of(shared, choices, hardware, micro_steps=work.micro_steps, tokens=most)
            seconds = step_seconds(shared, choices, work, room.card or CPU) + wire.seconds
            found.append(Candidate(choices, needed, seconds, room.holds(needed), way, wire))
    return found


def best(found: Sequence[Candidate], room: Room) -> Candidate:
    """Takes the fastest set that fits; where none does, what lacks least of the device and then of the host.

    A rounded head is taken only where none fits without, a set that fits by less than the planner's tolerance only
    where none fits by more, and experts are spread only where they do not fit whole or much is gained.
    """
    fitting = [each for each in found if each.fits]
    if not fitting:
        return min(found, key=lambda each: room.lacks(each.budget))
    exact = min(_roundness(each) for each in fitting)
    rounded_least = [each for each in fitting if _roundness(each) == exact]
    safe = [each for each in rounded_least if each.budget.peak_bytes <= SAFE * room.device_bytes] or rounded_least
    whole = [each for each in safe if each.way.expert == 1]
    if whole and min(each.seconds for each in safe) > SURE * min(each.seconds for each in whole):
        safe = whole
    fastest = min(each.seconds for each in safe)
    quick = [each for each in safe if each.seconds <= NEARLY * fastest]
    return min(quick, key=lambda each: (each.num_pulled, _states(each), each.seconds))


def _roundness(candidate: Candidate) -> int:
    """How coarsely the head is rounded: of all levers only this one changes numbers."""
    return POSITIONS["head"].index(candidate.choices.head)


def _states(candidate: Candidate) -> int:
    """How far AdamW's states are from float32; of two sets as plain as each other the more exact one is taken."""
    return POSITIONS["optimizer"].index(candidate.choices.optimizer)


def work_of(recipe: Recipe, counts: Counts, length: int, choices: Choices, processes: int = 1) -> Work:
    """Says how many tokens a process computes in a step; each micro-batch is padded to its longest, or packed."""
    learnt = counts.learnt_tokens / counts.tokens if counts.tokens and counts.learnt_tokens else 1.0
    mean, padded = _mean_length(counts, length), padded_length(counts, length, choices.micro_batch)
    batch = examples_in_a_step(recipe, counts)
    batch = -(-batch // processes)
    if recipe.data.packing:
        return Work(batch * mean, batch * mean * learnt, math.ceil(batch * mean / length))
    return Work(batch * padded, batch * mean * learnt, -(-batch // choices.micro_batch))


def padded_length(counts: Counts, length: int, examples: int) -> float:
    """Expects the tokens of the longest of so many examples.

    Of m lengths drawn evenly from between a shortest and a longest one, the largest is expected at m / (m + 1) of the
    way; the shortest follows from the mean.
    """
    mean = _mean_length(counts, length)
    shortest = max(1.0, 2 * mean - length)
    return mean if examples == 1 else max(mean, shortest + (length - shortest) * examples / (examples + 1))


def _mean_length(counts: Counts, length: int) -> float:
    return counts.tokens / counts.examples if counts.tokens and counts.examples else float(length)


def examples_in_a_step(recipe: Recipe, counts: Counts) -> int:
    """Gives the batch, or all examples where there are fewer."""
    return min(recipe.train.batch_size, max(1, counts.examples))


def _open(recipe: Recipe, job: Job) -> Iterator[Choices]:
    """Yields the sets of levers that neither the recipe nor the device closes."""
    device = "cuda" if job.cuda else "cpu"
    positions = [_positions(recipe, job, name) for name in POSITIONS]
    for micro_batch in micro_batches(recipe, job.length, device, job.processes):
        accumulation = recipe.train.batch_size // (micro_batch * job.processes)
        for position in product(*positions):
            levers: dict[str, Any] = dict(zip(POSITIONS, position, strict=True))
            yield Choices(micro_batch=micro_batch, accumulation=accumulation, **levers)


def _positions(recipe: Recipe, job: Job, name: str) -> tuple[str, ...]:
    wished = getattr(recipe.memory, name)
    if wished != "auto":
        return (wished,)
    if name == "optimizer" and job.processes > 1:
        return POSITIONS[name][:1]  # states in 8 bits cannot be put together again on another number of GPUs
    useless = not job.cuda and name != "recompute"  # on a CPU the device is the host
    trained = job.full and name in ("embeddings", "head")
    shared = job.widths.tied and name in ("embeddings", "head")
    return POSITIONS[name][:1] if useless or trained or shared else POSITIONS[name]


def micro_batches(recipe: Recipe, length: int, device: str, processes: int = 1) -> list[int]:
    """Lists the micro-batches worth looking at: divisors of a process's share, of no more tokens than help."""
    if recipe.memory.micro_batch:
        return [recipe.memory.micro_batch]
    if recipe.data.packing:
        return [1]  # pack
    batch, most = recipe.train.batch_size // processes, max(1, MICRO_BATCH_TOKENS[device] // length)
    return [n for n in range(1, batch + 1) if batch % n == 0 and n <= most]
