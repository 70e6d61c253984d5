"""In which ways several processes may share out what they hold, beside each step's examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from finetune.hardware import Hardware
from finetune.memory import Job
from finetune.recipe import Recipe

STAGES = (0, 1, 2)
"""Of ZeRO, the plainest first, among which the plan chooses."""


@dataclass(frozen=True)
class Way:
    """One of them; the default holds everything in every process."""

    zero: int = 0
    """Stage of DeepSpeed's ZeRO."""
    expert: int = 1
    """Processes over which the routed experts are spread."""

    def __str__(self) -> str:
        return f"expert={self.expert} zero={self.zero}"


WHOLE = Way()


def ways(recipe: Recipe, job: Job, hardware: Hardware) -> Iterator[Way]:
    """Yields those that the recipe leaves open, the plainest first.

    Experts are spread by the plan inside a machine only: between machines their tokens take longer than their products.
    """
    wished = recipe.parallel
    several = job.processes > 1
    stages = (wished.zero,) if wished.zero is not None else STAGES if several else STAGES[:1]
    groups = [wished.expert] if wished.expert is not None else [1, *(_groups(job, hardware) if several else ())]
    for expert in groups:
        for zero in stages:
            yield Way(zero, expert)


def _groups(job: Job, hardware: Hardware) -> Iterator[int]:
    """Yields the numbers of processes over which experts can be spread evenly, doubling."""
    size = 2
    while size <= hardware.on_each and job.widths.num_experts:
        if hardware.on_each % size == job.widths.num_experts % size == job.processes % size == 0:
            yield size
        size *= 2
