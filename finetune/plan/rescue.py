"""What to do when a card holds less than was promised: the same recipe with other levers, or the nearest that fits."""

from __future__ import annotations

import math
from dataclasses import asdict

from finetune.data import Counts
from finetune.errors import DoesNotFit
from finetune.hardware import Hardware, plannable_bytes
from finetune.plan.making import make_plan
from finetune.plan.record import Plan
from finetune.plan.words import changed
from finetune.recipe import Recipe
from finetune.shape import ModelShape

GIB = 2**30

LEANER = 0.93
"""Of the promised peak that the rescue is planned for: twice the planner's tolerance, and a little."""


def out_of_memory(
    plan: Plan, recipe: Recipe, shape: ModelShape, hardware: Hardware, counts: Counts, *, where: str, command: str
) -> DoesNotFit:
    """Says which lever to pull, computed by planning again for less memory.

    Args:
        plan: whose promise was not kept.
        recipe: as it was planned.
        shape: of the base.
        hardware: as the plan was made for.
        counts: of the data.
        where: what was being done when the memory ran out.
        command: what the fix begins with.
    """
    spare = math.ceil(10 * (plannable_bytes(hardware) - LEANER * plan.peak_bytes) / GIB) / 10
    leaner = make_plan(changed(recipe, {"memory.spare": spare}), shape, hardware, counts)
    before, after = asdict(plan.choices), asdict(leaner.choices)
    pulled = ", ".join(f"{name} {after[name]}" for name in before if after[name] != before[name])
    planned = f"{plan.peak_bytes / GIB:.1f} GiB of {plan.gpu_bytes / GIB:.1f} were planned"
    if leaner.fits:
        fix = f"{command} --set memory.spare={spare}"
        why = f"{planned}; with the fix {leaner.peak_bytes / GIB:.1f} are, by {pulled}"
    else:
        fix = " or ".join(f"{command} --set memory.spare={spare} {words}" for words in leaner.proposals)
        why = f"{planned}, and no lever is left to pull"
    return DoesNotFit(
        f"the GPU ran out of memory {where}", where=f"{plan.gpu}, {plan.length:,} tokens", why=why, fix=fix
    )
