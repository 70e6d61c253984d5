"""Makes sure that what a command writes does not take the place of what it reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import RecipeError

if TYPE_CHECKING:
    from finetune.recipe import Recipe


def check_target(word: str, target: Path | None, recipe: Path, wishes: Recipe) -> None:
    """Refuses to write over the recipe or the rows, into a folder of rows, or onto a device.

    Args:
        word: that named the target, such as --page.
        target: where to write; None where nothing is written.
        recipe: the file that was named.
        wishes: what stands in it.

    Raises:
        RecipeError: the target is one of these.
    """
    if target is None:
        return
    from finetune.data.sources import sources_of

    where, fix = f"{word} {target}", f"{word} another{target.suffix or '.txt'}"
    if os.path.lexists(target) and not os.path.isfile(target):
        raise RecipeError("this is not a regular file", where=where, why="it would be replaced", fix=fix)
    read = [recipe, *(source.path for source in sources_of(wishes) if source.path is not None)]
    read += [wishes.data.eval] if isinstance(wishes.data.eval, Path) else []
    real = os.path.realpath(target)
    for each in map(os.path.realpath, read):
        if real == each or (os.path.isdir(each) and os.path.commonpath([real, each]) == each):
            why = f"{each} is read by this command"
            raise RecipeError("what is written would take the place of what is read", where=where, why=why, fix=fix)
