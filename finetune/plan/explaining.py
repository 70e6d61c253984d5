"""Why a plan is as it is: what each lever that was left alone would save, and what it would cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune.levers import POSITIONS
from finetune.plan.candidates import NEARLY, Candidate, Room
from finetune.plan.record import Plan
from finetune.plan.sharing import best_by_way
from finetune.recipe import Recipe

GIB = 2**30

HARDLY = 0.01
"""Of a step's time; a roofline tells no smaller difference."""


@dataclass(frozen=True)
class Rejected:
    """One lever moved, or another micro-batch, and all else as chosen."""

    lever: str
    position: str
    peak_bytes: int | None
    """More than chosen, on the device; None where it was not worked out."""
    host_bytes: int | None
    """More than chosen, on the host."""
    seconds: float | None
    """Of a step, as a multiple of what was chosen."""
    verdict: str


def reason(chosen: Candidate, room: Room, head: str) -> str:
    """Says in one sentence why this set was chosen.

    Args:
        chosen: the set.
        room: what there is to fit into.
        head: what the recipe says of the output head.
    """
    if not chosen.fits:
        return "nothing that the recipe leaves open fits; this holds least"
    if not chosen.num_pulled:
        return "the plain stack fits, and nothing is faster"
    spare = (room.device_bytes - chosen.budget.peak_bytes) / GIB
    rounded = chosen.choices.head != "full" and head == "auto"
    return f"the fastest set that fits, {spare:.1f} GiB to spare{', and none fits with the head whole' * rounded}"


def in_short(plan: Plan) -> str:
    """Says in one line what was decided."""
    moved = [
        f"{n} {getattr(plan.choices, n)}" for n, where in POSITIONS.items() if getattr(plan.choices, n) != where[0]
    ]
    step = f"{plan.choices.micro_batch} x {plan.choices.accumulation} examples a step"
    peak = f"{plan.peak_bytes / GIB:.2f} of {plan.gpu_bytes / GIB:.2f} GiB at the peak"
    return f"{step}; {', '.join(moved) or 'the plain stack'}; {peak}"


def explain(recipe: Recipe, chosen: Candidate, found: Sequence[Candidate], room: Room) -> list[Rejected]:
    """Lists what was rejected: positions of levers and micro-batches, one change at a time, and ways of sharing out."""
    alike = [candidate for candidate in found if candidate.way == chosen.way]
    by_choice = {candidate.choices: candidate for candidate in alike}
    rejected = []
    for name, positions in POSITIONS.items():
        for position in positions:
            change: dict[str, Any] = {name: position}
            other = by_choice.get(replace(chosen.choices, **change))
            if other is None:
                pinned = getattr(recipe.memory, name) != "auto"
                verdict = f"the recipe pins memory.{name}" if pinned else "this base or device has no use for it"
                rejected.append(Rejected(name, position, None, None, None, verdict))
            elif other is not chosen:
                rejected.append(_rejected(name, position, chosen, other, room))
    rejected += _micro_batches(chosen, alike, room)
    others = (other for way, other in best_by_way(found, room).items() if way != chosen.way)
    return rejected + [_rejected("parallel", str(other.way), chosen, other, room) for other in others]


def _micro_batches(chosen: Candidate, found: Sequence[Candidate], room: Room) -> Iterator[Rejected]:
    for other in found:
        same = replace(other.choices, micro_batch=chosen.choices.micro_batch, accumulation=chosen.choices.accumulation)
        if other is not chosen and same == chosen.choices:
            yield _rejected("micro_batch", str(other.choices.micro_batch), chosen, other, room)


def _rejected(lever: str, position: str, chosen: Candidate, other: Candidate, room: Room) -> Rejected:
    return Rejected(
        lever,
        position,
        other.budget.peak_bytes - chosen.budget.peak_bytes,
        other.budget.host_bytes - chosen.budget.host_bytes,
        other.seconds / chosen.seconds,
        verdict(chosen, other, room),
    )


def verdict(chosen: Candidate, other: Candidate, room: Room) -> str:
    """Says why another set was not taken."""
    if other.budget.peak_bytes > room.device_bytes:
        return f"does not fit by {(other.budget.peak_bytes - room.device_bytes) / GIB:.2f} GiB"
    if other.budget.host_bytes > room.host_bytes:
        return f"the host lacks {(other.budget.host_bytes - room.host_bytes) / GIB:.1f} GiB for it"
    heads = POSITIONS["head"]
    if heads.index(other.choices.head) > heads.index(chosen.choices.head):
        return "rounds the head, which is not needed"
    if other.seconds > (1 + HARDLY) * chosen.seconds:
        return "slower"
    if other.way.expert > chosen.way.expert and other.seconds < chosen.seconds:
        return "quicker only while routers balance"
    if other.seconds < chosen.seconds / NEARLY:
        return "faster, and too close to the edge"
    return "not needed"
