"""From a recipe, a base, a machine and the counts of the data to a plan. `finetune train` runs exactly what it says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from finetune.cards import CARDS, Card
from finetune.data import Counts
from finetune.errors import DoesNotFit, RecipeError
from finetune.hardware import Hardware
from finetune.plan.candidates import candidates
from finetune.plan.deciding import HOST_SHARE, check_family, decide, job_of, room_of
from finetune.plan.nearest import nearest
from finetune.plan.record import Plan
from finetune.plan.rules import Refusal, problem, refusals
from finetune.plan.ways import Way
from finetune.plan.words import Words, as_overrides, changed, value_of
from finetune.plan.writing import write
from finetune.recipe import Recipe
from finetune.shape import ModelShape, read_shape

MOST_CARDS = 3
"""That are named where a recipe does not fit."""

COMMON_CARD = "rtx3090"
"""That is named where the GPU is too old for any recipe."""


def make_plan(recipe: Recipe, shape: ModelShape, hardware: Hardware, counts: Counts) -> Plan:
    """Decides how to run the recipe here.

    Raises:
        ArtifactError: the base is not of a family that this package knows.
        RecipeError: a family that the recipe targets has no layer in the base, or a combination is forbidden.
    """
    check_family(recipe, shape.source, shape.model_type)
    _check_rules(recipe, shape, hardware, counts)
    chosen, found = decide(recipe, shape, hardware, counts)
    plan = write(recipe, shape, hardware, counts, chosen, found)
    if plan.fits:
        return plan
    near = _nearest(recipe, chosen.way, shape, hardware, counts)
    cards = _larger_cards(_shared(recipe, chosen.way, shape), shape, hardware, counts)
    return replace(plan, cards=cards, proposals=tuple(map(as_overrides, near)))


def check_fits(plan: Plan, recipe: Recipe, command: str = "") -> None:
    """Refuses a plan that does not fit, with the recipes near to it that do.

    Args:
        plan: of the recipe.
        recipe: which was planned.
        command: what plans for another machine; nothing where the flags can be typed after the command that is told.

    Raises:
        DoesNotFit: it does not.
    """
    if plan.fits:
        return
    needed, there = plan.peak_bytes / 2**30, plan.gpu_bytes / 2**30
    has = f"the {plan.gpu} has {there:.1f} for it" if plan.gpu else f"this machine has no GPU and can spare {there:.1f}"
    what = f"{plan.base} needs {needed:.1f} GiB; {has}"
    parts = plan.parts
    if needed <= there:
        host, each, parts = _host_bytes(plan) / 2**30, plan.host_bytes / 2**30, plan.host_parts
        several = f", {each:.1f} for each of its processes" if plan.processes > plan.nodes else ""
        whose = "a machine" if plan.nodes > 1 else "this machine"
        what = f"{plan.base} needs {host:.1f} GiB of host memory{several}, which {whose} has not"
    largest = sorted(parts.items(), key=lambda part: -part[1])[:4]
    why = ", ".join(f"{name} {size / 2**30:.1f}" for name, size in largest) + " GiB"
    if plan.cards:
        why += f"; as it is it fits --gpu {', '.join(plan.cards)}"
    where = f"{recipe.where('base')}, {plan.length:,} tokens, method {plan.method}"
    raise DoesNotFit(what, where=where, why=why, fix=_way_out(plan, f"{command} " if command else ""))


def _way_out(plan: Plan, command: str) -> str:
    """Gives words that lead to a plan that fits: a recipe near to this one, else another machine."""
    if plan.proposals:
        return " or ".join(plan.proposals)
    if plan.cards:
        toy = "" if plan.gpu else "; here a toy trains: finetune demo-base toy"
        return f"{command}--gpu {plan.cards[0]}   # plans for one{toy}"
    if plan.peak_bytes <= plan.gpu_bytes or not plan.gpu:
        return f"{command}--host {math.ceil(_host_bytes(plan) / HOST_SHARE / 2**30)}GB   # plans for such a host"
    return "a larger GPU in a larger host"


def _host_bytes(plan: Plan) -> int:
    """What all the processes of one machine take of its memory."""
    return plan.host_bytes * -(-plan.processes // plan.nodes)


def _check_rules(recipe: Recipe, shape: ModelShape, hardware: Hardware, counts: Counts) -> None:
    """Refuses a recipe that no set of levers could make right.

    The fixes, all of them typed, lead to a plan that fits, if any is near: where taking the rules' own ways out is not
    enough for that, the last one says what else it takes.

    Raises:
        RecipeError: naming each rule that it breaks, and the way out.
    """
    broken = refusals(recipe, shape, hardware)
    if not broken:
        return
    out = _ways_out(broken)
    after, base = changed(recipe, out), _base_of(out, shape)
    fixes = [as_overrides(refusal.out) for refusal in broken]
    if all(fixes):
        fixes[-1] = as_overrides(broken[-1].out | _onwards(after, base, hardware, counts))
    else:  # the GPU itself is refused
        newer = _with_card(hardware, CARDS[COMMON_CARD])
        more = " ".join([f"--gpu {_named(newer)}", as_overrides(_onwards(after, base, newer, counts))]).strip()
        fixes = [fix or f"{more}   # or another GPU since Ampere, of 2020" for fix in fixes]
    raise RecipeError.of(problem(recipe, refusal, fix) for refusal, fix in zip(broken, fixes, strict=True))


def _onwards(recipe: Recipe, shape: ModelShape, hardware: Hardware, counts: Counts) -> Words:
    """Finds what else it takes from a recipe to one that breaks no rule and, if any near it does, fits."""
    out = _cure(recipe, shape, hardware)
    recipe, shape = changed(recipe, out), _base_of(out, shape)
    chosen, _ = decide(recipe, shape, hardware, counts)
    near = [] if chosen.fits else _nearest(recipe, chosen.way, shape, hardware, counts)
    return out | (near[0] if near else {})


def _cure(recipe: Recipe, shape: ModelShape, hardware: Hardware) -> Words:
    """Follows all ways out of the rules, to their end."""
    if not (broken := refusals(recipe, shape, hardware)):
        return {}
    out = _ways_out(broken)
    return out | _cure(changed(recipe, out), _base_of(out, shape), hardware)


def _ways_out(broken: Sequence[Refusal]) -> Words:
    return {key: value for refusal in broken for key, value in refusal.out.items()}


def _base_of(words: Words, shape: ModelShape) -> ModelShape:
    return read_shape(words["base"], None) if "base" in words else shape


def _larger_cards(recipe: Recipe, shape: ModelShape, hardware: Hardware, counts: Counts) -> tuple[str, ...]:
    """Names the smallest cards on which the recipe fits as it is."""
    found: list[str] = []
    for card in sorted(CARDS.values(), key=lambda card: card.memory_bytes):
        other = _with_card(hardware, card)
        if card.memory_bytes > hardware.gpu_bytes and _fits(recipe, shape, other, counts):
            found.append(_named(other))
        if len(found) == MOST_CARDS:
            break
    return tuple(found)


def _with_card(hardware: Hardware, card: Card) -> Hardware:
    """The same machines with other GPUs, as many."""
    return replace(
        hardware,
        gpus=(card.name,) * max(1, len(hardware.gpus)),
        card=card,
        gpu_bytes=card.memory_bytes,
        gpu_free_bytes=0,
        compute_capability=card.compute_capability,
        kernels=True,
        rule_kernel=True,
    )


def _named(hardware: Hardware) -> str:
    """Names the GPUs of one machine as `--gpu` does."""
    return hardware.gpus[0] + (f"x{hardware.on_each}" if hardware.on_each > 1 else "")


def _nearest(recipe: Recipe, way: Way, shape: ModelShape, hardware: Hardware, counts: Counts) -> list[Words]:
    """Finds recipes near to one that does not fit, which do; each was planned, so each succeeds."""
    if hardware.device == "cpu":
        return []

    def fits(other: Recipe, base: ModelShape) -> bool:
        cured = changed(other, _cure(other, base, hardware))
        return _fits(_shared(cured, way, base), base, hardware, counts)

    length = job_of(recipe, shape, hardware, counts).length
    return nearest(recipe, shape, length, fits, lambda other, base: _cure(other, base, hardware))


def _shared(recipe: Recipe, way: Way, shape: ModelShape) -> Recipe:
    """Pins the way of sharing out that the recipe leaves open: what fits so also fits when it is open.

    Trying all ways of each recipe would take long.
    """
    spread = way.expert if shape.experts_per_token else 1
    pinned = {"parallel.zero": way.zero, "parallel.expert": spread}
    return changed(recipe, {key: value for key, value in pinned.items() if value_of(recipe, key) is None})


def _fits(recipe: Recipe, shape: ModelShape, hardware: Hardware, counts: Counts) -> bool:
    """Tells whether any set of levers fits; where none does one example at a time, none does."""
    if refusals(recipe, shape, hardware):
        return False
    lean = changed(recipe, {"memory.micro_batch": recipe.memory.micro_batch or 1})
    job = job_of(lean, shape, hardware, counts)
    return any(each.fits for each in candidates(lean, job, room_of(lean, hardware), counts, hardware))
