"""What to do when a card holds less than was promised: the same recipe with other levers, or the nearest that fits."""

from __future__ import annotations

from dataclasses import asdict, replace

from finetune.data import Counts
from finetune.errors import DoesNotFit
from finetune.hardware import Hardware
from finetune.plan.deciding import make_plan
from finetune.plan.record import Plan
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
    most = int(LEANER * min(plan.peak_bytes, plan.gpu_bytes))
    leaner = make_plan(recipe, shape, replace(hardware, gpu_free_bytes=most), counts)
    planned = f"{plan.peak_bytes / GIB:.1f} GiB of {plan.gpu_bytes / GIB:.1f} were planned"
    if leaner.fits:
        before = asdict(plan.choices)
        words = [f"memory.{k}={v}" for k, v in asdict(leaner.choices).items() if v != before[k] and k != "accumulation"]
        fix = " ".join([command, *(f"--set {word}" for word in words)])
        why = f"{planned}; with the fix {leaner.peak_bytes / GIB:.1f} are"
    else:
        fix = " or ".join(f"{command} {words}" for words in leaner.proposals) or "a larger GPU"
        why = f"{planned}, and no lever is left to pull"
    return DoesNotFit(
        f"the GPU ran out of memory {where}", where=f"{plan.gpu}, {plan.length:,} tokens", why=why, fix=fix
    )
