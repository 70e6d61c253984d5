"""From a recipe, a base, a machine and the counts of the data to a plan. `finetune train` runs exactly what it says."""

from __future__ import annotations

import math
from dataclasses import replace

from finetune.cards import CARDS
from finetune.data import Counts
from finetune.errors import DoesNotFit
from finetune.hardware import Hardware
from finetune.plan.candidates import candidates
from finetune.plan.deciding import HOST_SHARE, decide, job_of, room_of
from finetune.plan.nearest import changed, nearest
from finetune.plan.record import Plan
from finetune.plan.rules import refusals
from finetune.plan.writing import write
from finetune.recipe import Recipe
from finetune.shape import ModelShape

MOST_CARDS = 3
"""That are named where a recipe does not fit."""


def make_plan(recipe: Recipe, shape: ModelShape, hardware: Hardware, counts: Counts) -> Plan:
    """Decides how to run the recipe here.

    Raises:
        ArtifactError: the base is not of a family that this package knows.
        RecipeError: a family that the recipe targets has no layer in the base, or a combination is forbidden.
    """
    chosen, found = decide(recipe, shape, hardware, counts)
    plan = write(recipe, shape, hardware, counts, chosen, found)
    if plan.fits:
        return plan
    # what fits when shared out in one way fits when the way is left open; trying all ways of each would take long
    shared = changed(recipe, {"parallel.zero": plan.zero, "parallel.expert": plan.expert_parallel})
    near = () if hardware.device == "cpu" else _nearest(shared, shape, hardware, counts)
    return replace(plan, cards=_larger_cards(shared, shape, hardware, counts), proposals=near)


def check_fits(plan: Plan, recipe: Recipe) -> None:
    """Refuses a plan that does not fit, with the recipes near to it that do.

    Raises:
        DoesNotFit: it does not.
    """
    if plan.fits:
        return
    needed, there = plan.peak_bytes / 2**30, plan.gpu_bytes / 2**30
    has = f"the {plan.gpu} has {there:.1f} for it" if plan.gpu else f"this machine has no GPU and can spare {there:.1f}"
    what = f"{plan.base} needs {needed:.1f} GiB; {has}"
    if needed <= there:
        what = f"{plan.base} needs {plan.host_bytes / 2**30:.1f} GiB of host memory, which this machine has not"
    largest = sorted(plan.parts.items(), key=lambda part: -part[1])[:4]
    why = ", ".join(f"{name} {size / 2**30:.1f}" for name, size in largest) + " GiB"
    if plan.cards:
        why += f"; as it is it fits --gpu {', '.join(plan.cards)}"
    where = f"{recipe.where('base')}, {plan.length:,} tokens, method {plan.method}"
    raise DoesNotFit(what, where=where, why=why, fix=_way_out(plan))


def _way_out(plan: Plan) -> str:
    """Gives words that make `finetune plan` succeed: a recipe near to this one, else another machine."""
    if plan.proposals:
        return " or ".join(plan.proposals)
    if plan.cards:
        toy = "" if plan.gpu else "; here a toy trains: finetune demo-base toy"
        return f"--gpu {plan.cards[0]}   # plans for one{toy}"
    if plan.peak_bytes <= plan.gpu_bytes or not plan.gpu:
        together = plan.host_bytes * -(-plan.processes // plan.nodes)
        return f"--host {math.ceil(together / HOST_SHARE / 2**30)}GB   # plans for such a host"
    return "a larger GPU in a larger host"


def _larger_cards(recipe: Recipe, shape: ModelShape, hardware: Hardware, counts: Counts) -> tuple[str, ...]:
    """Names the smallest cards on which the recipe fits as it is."""
    found: list[str] = []
    for card in sorted(CARDS.values(), key=lambda card: card.memory_bytes):
        other = replace(
            hardware,
            gpus=(card.name,),
            card=card,
            gpu_bytes=card.memory_bytes,
            gpu_free_bytes=0,
            compute_capability=card.compute_capability,
            kernels=True,
            rule_kernel=True,
        )
        if card.memory_bytes > hardware.gpu_bytes and _fits(recipe, shape, other, counts):
            found.append(card.name + (f"x{hardware.on_each}" if hardware.on_each > 1 else ""))
        if len(found) == MOST_CARDS:
            break
    return tuple(found)


def _nearest(recipe: Recipe, shape: ModelShape, hardware: Hardware, counts: Counts) -> tuple[str, ...]:
    """Finds recipes near to one that does not fit, which do; each was planned, so each succeeds."""

    def fits(other: Recipe, base: ModelShape) -> bool:
        dense = {"parallel.expert": 1} if base.experts_per_token == 0 else {}
        return _fits(changed(other, dense), base, hardware, counts)

    return nearest(recipe, shape, job_of(recipe, shape, hardware, counts).length, fits)


def _fits(recipe: Recipe, shape: ModelShape, hardware: Hardware, counts: Counts) -> bool:
    """Tells whether any set of levers fits; where none does one example at a time, none does."""
    if refusals(recipe, shape, hardware):
        return False
    lean = changed(recipe, {"memory.micro_batch": recipe.memory.micro_batch or 1})
    job = job_of(lean, shape, hardware, counts)
    return any(each.fits for each in candidates(lean, job, room_of(lean, hardware), counts, hardware))
