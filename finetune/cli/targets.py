"""Makes sure that what a command writes does not take the place of what it reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import RecipeError

if TYPE_CHECKING:
    from finetune.recipe import Recipe
    from finetune.run import Run

STDOUT = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
"""What is written there is printed: a file of that name would take the terminal's place."""

MOST_READ = 2**22
"""Bytes of a file that are looked at, to find out who made it."""


def check_target(word: str, target: Path | None, recipe: Path, wishes: Recipe, mark: str) -> None:
    """Refuses to write over the recipe or the rows, into a folder of rows, onto a device or somebody else's file.

    Args:
        word: that named the target, such as --page.
        target: where to write; None where nothing is written.
        recipe: the file that was named.
        wishes: what stands in it.
        mark: stands in every file that the command writes there, and in no other.

    Raises:
        ArtifactError: what lies there cannot be read.
        RecipeError: the target is one of these.
    """
    if target is None:
        return
    from finetune.data.sources import sources_of

    where, fix = f"{word} {target}", f"{word} another{target.suffix or '.txt'}"
    _check_regular(target, where, fix)
    read = [recipe, *(source.path for source in sources_of(wishes) if source.path is not None)]
    read += [wishes.data.eval] if isinstance(wishes.data.eval, Path) else []
    real = os.path.realpath(target)
    for each in map(os.path.realpath, read):
        if real == each or (os.path.isdir(each) and os.path.commonpath([real, each]) == each):
            why = f"{each} is read by this command"
            raise RecipeError("what is written would take the place of what is read", where=where, why=why, fix=fix)
    _check_ours(target, where, fix, mark)


def check_apart(**targets: Path | None) -> None:
    """Refuses to write two things into one file.

    Args:
        targets: where to write, by the name of the option.

    Raises:
        RecipeError: two of them are the same.
    """
    taken: dict[str, str] = {}
    for name, target in targets.items():
        if target is None:
            continue
        if other := taken.get(os.path.realpath(target)):
            where, fix = f"--{other} and --{name} {target}", f"--{name} another{target.suffix or '.txt'}"
            why = "the one would take the other's place"
            raise RecipeError("two things cannot be written into one file", where=where, why=why, fix=fix)
        taken[os.path.realpath(target)] = name


def check_made(word: str, target: Path, run: Run, mark: str, own: Path | None = None) -> None:
    """Refuses to write of a run over anything but what the same command made before.

    Args:
        word: that named the target, such as --out.
        target: where to write.
        run: that is told of.
        mark: stands in every file that the command makes, and in no other.
        own: the file of the run that the command makes, if there is one.

    Raises:
        ArtifactError: what lies there cannot be read.
        RecipeError: it is a device, a file of the run, or of somebody else.
    """
    where, fix = f"{word} {target}", f"{word} another{target.suffix or '.txt'}"
    _check_regular(target, where, fix)
    within = os.path.relpath(os.path.realpath(target.parent) + f"/{target.name}", os.path.realpath(run.path))
    files = [told.__get__(run) for told in vars(type(run)).values() if isinstance(told, property)]
    of_run = {os.path.relpath(file, run.path): file for file in files if isinstance(file, Path)}
    if within in of_run:
        if of_run[within] == own:
            return
        why = f"{within} is a file of {run.name}"
        raise RecipeError("what is written would take the place of what is read", where=where, why=why, fix=fix)
    _check_ours(target, where, fix, mark)


def _check_ours(target: Path, where: str, fix: str, mark: str) -> None:
    """Refuses to replace what the command did not make; a file without anything in it is nobody's."""
    from finetune import atomic

    with atomic.refusal_told(target, fix):
        if target.is_file() and (begun := _beginning(target)) and mark.encode() not in begun:
            why = "it would be replaced, and this command did not make it"
            raise RecipeError("this file is somebody else's", where=where, why=why, fix=fix)


def _beginning(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(MOST_READ)


def _check_regular(target: Path, where: str, fix: str) -> None:
    if os.path.lexists(target) and not os.path.isfile(target):
        raise RecipeError("this is not a regular file", where=where, why="it would be replaced", fix=fix)
