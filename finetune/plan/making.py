"""From a recipe, a base, a machine and the counts of the data to a plan. `finetune train` runs exactly what it says."""

from __future__ import annotations

from dataclasses import replace

from finetune.cards import CARDS
from finetune.data import Counts
from finetune.errors import DoesNotFit
from finetune.hardware import Hardware
from finetune.plan.candidates import candidates
from finetune.plan.deciding import decide, job_of, room_of
from finetune.plan.nearest import changed, nearest
from finetune.plan.record import Plan
from finetune.plan.rules import BF16_SINCE, refusals
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
    chosen, _ = decide(recipe, shape, hardware, counts)
    plan = write(recipe, shape, hardware, counts, chosen)
    if plan.fits or hardware.device == "cpu":
        return plan
    cards = _larger_cards(recipe, shape, hardware, counts)
    return replace(plan, cards=cards, proposals=_nearest(recipe, shape, hardware, counts))


def check_fits(plan: Plan, recipe: Recipe) -> None:
    """Refuses a plan that does not fit, with the recipes near to it that do.

    Raises:
        DoesNotFit: it does not.
    """
    if plan.fits:
        return
    needed, there = plan.peak_bytes / 2**30, plan.gpu_bytes / 2**30
    place = recipe.where("base")
    if plan.gpu:
        has, fix = f"the {plan.gpu} has {there:.1f} for it", " or ".join(plan.proposals) or "a larger GPU"
    else:
        has = f"this machine has no GPU and can spare {there:.1f}"
        fix = f"finetune plan {place.split(':')[0]} --gpu 24GB   # here a toy trains: finetune demo-base toy"
    what = f"{plan.base} needs {needed:.1f} GiB; {has}"
    if needed <= there:
        what = f"{plan.base} needs {plan.host_bytes / 2**30:.1f} GiB of host memory, which this machine has not"
    largest = sorted(plan.parts.items(), key=lambda part: -part[1])[:4]
    why = ", ".join(f"{name} {size / 2**30:.1f}" for name, size in largest) + " GiB"
    if plan.cards:
        why += f"; as it is it fits --gpu {', '.join(plan.cards)}"
    raise DoesNotFit(what, where=f"{place}, {plan.length:,} tokens, method {plan.method}", why=why, fix=fix)


def _larger_cards(recipe: Recipe, shape: ModelShape, hardware: Hardware, counts: Counts) -> tuple[str, ...]:
    """Names the smallest cards on which the recipe fits as it is."""
    found: list[str] = []
    for card in sorted(CARDS.values(), key=lambda card: card.memory_bytes):
        other = replace(hardware, card=card, gpu_bytes=card.memory_bytes, gpu_free_bytes=0)
        lean = changed(recipe, {"memory.micro_batch": recipe.memory.micro_batch or 1})
        job = job_of(lean, shape, other, counts)
        new_enough = card.compute_capability >= BF16_SINCE and card.memory_bytes > hardware.gpu_bytes
        if new_enough and any(each.fits for each in candidates(lean, job, room_of(lean, other), counts)):
            found.append(card.name)
        if len(found) == MOST_CARDS:
            break
    return tuple(found)


def _nearest(recipe: Recipe, shape: ModelShape, hardware: Hardware, counts: Counts) -> tuple[str, ...]:
    """Finds recipes near to one that does not fit, which do; each was planned, so each succeeds."""

    def fits(other: Recipe, base: ModelShape) -> bool:
        if refusals(other, base, hardware):
            return False
        lean = changed(other, {"memory.micro_batch": other.memory.micro_batch or 1})
        job = job_of(lean, base, hardware, counts)
        return any(each.fits for each in candidates(lean, job, room_of(lean, hardware), counts))

    return nearest(recipe, shape, job_of(recipe, shape, hardware, counts).length, fits)
