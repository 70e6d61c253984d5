"""Before the first step and when memory runs out all the same: what is free now, and which lever to pull."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from finetune.data import Counts
from finetune.hardware import Hardware, detect
from finetune.plan import Plan, out_of_memory
from finetune.preflight import preflight
from finetune.recipe import Recipe
from finetune.run import Run, anew
from finetune.shape import read_shape


def look_once_more(
    recipe: Recipe, plan: Plan, runs: Path, base: Path, say: Callable[[str], None], written_bytes: int = 0
) -> None:
    """Compares the promise with what is free right now, and says what is slow.

    Raises:
        DoesNotFit, OutsideError: training cannot end well here.
    """
    for found in preflight(plan, detect(), runs, base, recipe, written_bytes):
        if found.state == "slow":
            say(f"WARNING: {found.name}: {found.told}" + (f"   {found.fix}" if found.fix else ""))


@contextmanager
def memory_told(run: Run, recipe: Recipe, plan: Plan, base: Path, hardware: Hardware, counts: Counts) -> Iterator[None]:
    """Tells of a GPU that ran out of memory which lever to pull.

    Raises:
        DoesNotFit: it did.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        shape, command = read_shape(recipe.base, base), anew(run)
        during = f"({str(error).splitlines()[0]})"
        raise out_of_memory(plan, recipe, shape, hardware, counts, where=during, command=command) from error
