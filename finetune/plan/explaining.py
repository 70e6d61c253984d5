"""Why a plan is as it is: what each lever that was left alone would save, and what it would cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from finetune.levers import POSITIONS
from finetune.plan.candidates import Candidate, Room

GIB = 2**30


def reason(chosen: Candidate, room: Room) -> str:
    """Says in one sentence why this set was chosen."""
    if not chosen.fits:
        return "nothing fits; this holds least"
    pulled = chosen.num_pulled
    if not pulled:
        return "the plain stack fits, and nothing is faster"
    spare = (room.device_bytes - chosen.budget.peak_bytes) / GIB
    exact = "" if chosen.choices.head == "full" else ", and none fits with an unrounded head"
    return f"the fastest set that fits, {spare:.1f} GiB to spare{exact}"


def explain(chosen: Candidate, found: Sequence[Candidate], room: Room) -> list[str]:
    """Lists what was rejected, one change at a time: positions of levers, and micro-batches."""
    by_choice = {candidate.choices: candidate for candidate in found}
    lines = []
    for name, positions in POSITIONS.items():
        here = getattr(chosen.choices, name)
        for position in positions:
            if position == here:
                continue
            changed: dict[str, Any] = {name: position}
            other = by_choice.get(replace(chosen.choices, **changed))
            told = "left out: the recipe, the base or the device does not allow it"
            lines.append(f"{name} {position}: {_told(chosen, other, room) if other else told}")
    return lines + list(_micro_batches(chosen, found, room))


def _micro_batches(chosen: Candidate, found: Sequence[Candidate], room: Room) -> Iterator[str]:
    for other in found:
        same = replace(other.choices, micro_batch=chosen.choices.micro_batch, accumulation=chosen.choices.accumulation)
        if other is not chosen and same == chosen.choices:
            yield f"micro batch {other.choices.micro_batch}: {_told(chosen, other, room)}"


def _told(chosen: Candidate, other: Candidate, room: Room) -> str:
    """Says what another set would save or cost, and why it was not taken."""
    saved = (chosen.budget.peak_bytes - other.budget.peak_bytes) / GIB
    slower = other.seconds / chosen.seconds - 1
    bytes_told = (
        f"saves {saved:.2f} GiB"
        if saved >= 0.005
        else f"costs {-saved:.2f} GiB"
        if saved <= -0.005
        else "saves nothing"
    )
    speed = f"{slower:+.1%} a step" if abs(slower) >= 0.0005 else "as fast"
    return f"{bytes_told}, {speed}; {_verdict(chosen, other, room)}"


def _verdict(chosen: Candidate, other: Candidate, room: Room) -> str:
    if other.budget.peak_bytes > room.device_bytes:
        return f"does not fit by {(other.budget.peak_bytes - room.device_bytes) / GIB:.2f} GiB"
    if other.budget.host_bytes > room.host_bytes:
        return f"the host lacks {(other.budget.host_bytes - room.host_bytes) / GIB:.1f} GiB for it"
    heads = POSITIONS["head"]
    if heads.index(other.choices.head) > heads.index(chosen.choices.head):
        return "rounds the head, which is not needed"
    if other.seconds > chosen.seconds * 1.0005:
        return "slower"
    return "not needed"
