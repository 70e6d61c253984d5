"""Which files a recipe learns from, each with what the recipe says of it."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from finetune.data.files import data_files, look_into
from finetune.data.filling import Reading, reading_of
from finetune.data.hub_sets import fetch_files
from finetune.errors import DataError, Problem, RecipeError
from finetune.recipe import Recipe, Source

PUT_INTO_FILE = "put the rows into a .jsonl file and name it"


@dataclass(frozen=True)
class Sourced:
    """A file to read, and the source of the recipe that named it."""

    reading: Reading
    source: Source
    number: int
    """Of the source, from 0."""
    held_out: bool = False
    """Whether `data.eval` names it."""


def sources_of(recipe: Recipe) -> tuple[Source, ...]:
    """Lists the sources that `data.train` names, each written out."""
    train = recipe.data.train
    return tuple(
        each if isinstance(each, Source) else Source(path=each)
        for each in (train if isinstance(train, tuple) else (train,))
    )


def to_learn(recipe: Recipe, wrong: list[Problem] | None = None) -> list[Sourced]:
    """Finds every file that is learnt from.

    Args:
        recipe: that names them.
        wrong: takes what is wrong with a file that is there, in place of an error.

    Raises:
        DataError: a file is not there, or nothing that can be read.
        OutsideError: a data set of the Hub cannot be downloaded.
    """
    found = []
    shares = [source.share or 0.0 for source in sources_of(recipe)]
    if sum(shares) >= 1 or all(shares):
        why = f"the shares of {len(shares)} sources add up to {sum(shares):g}: nothing is left for what is tuned for"
        fix = "leave out the share of the source that is tuned for"
        raise RecipeError("the shares leave nothing", where=recipe.where("data.train"), why=why, fix=fix)
    for number, source in enumerate(sources_of(recipe)):
        files = fetch_files(source) if source.hub else data_files(_there(recipe, "data.train", source.path, number))
        for file in files:
            name = f"{source.hub}/{file.name}" if source.hub else shown_name(file)
            columns = source.columns or recipe.data.columns
            mixed_in = source.share is not None  # general rows have no customers, as a rule
            try:
                reading = reading_of(file, name, columns, recipe.data.group, may_lack_group=mixed_in)
                found.append(Sourced(reading, source, number))
            except DataError as error:
                if wrong is None:
                    raise
                wrong += error.problems
    return found


def to_hold_out(recipe: Recipe) -> list[Sourced]:
    """Finds every file of held-out rows; none where a share of the others is held out.

    Raises:
        DataError: as `to_learn` does.
    """
    if not isinstance(recipe.data.eval, Path):
        return []
    files = data_files(_there(recipe, "data.eval", recipe.data.eval, 0))
    readings = [reading_of(file, shown_name(file), recipe.data.columns, None) for file in files]
    return [Sourced(reading, Source(path=recipe.data.eval), 0, held_out=True) for reading in readings]


def folder_notes(recipe: Recipe) -> list[str]:
    """Says of each folder that a recipe names which files of it are not read.

    Raises:
        OSError: a folder cannot be read any more.
    """
    evals = (recipe.data.eval,) if isinstance(recipe.data.eval, Path) else ()
    named = dict.fromkeys([*(source.path for source in sources_of(recipe)), *evals])
    noted = ((path, look_into(path).note()) for path in named if path is not None and path.is_dir())
    return [f"{shown_name(path)}: {note}" for path, note in noted if note]


def shown_name(file: Path) -> str:
    """Names a file as briefly as the working folder allows; bytes of its name that are no UTF-8 are spelt out."""
    name = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    return str(name).encode("utf-8", "backslashreplace").decode()


def _there(recipe: Recipe, key: str, path: Path | None, number: int) -> Path:
    """Makes sure that there is something where a key says so.

    Raises:
        DataError: there is not.
    """
    assert path is not None, key
    if os.path.isfile(path) or os.path.isdir(path):
        return path
    typed, where = _typed(recipe, key, number, path)
    if os.path.exists(path):
        why = f"{path} is a pipe or a device, which may never end"
        raise DataError(f"{typed} is not a regular file", where=where, why=why, fix=PUT_INTO_FILE)
    names = os.listdir(path.parent) if os.access(path.parent, os.R_OK) and os.path.isdir(path.parent) else []
    close = difflib.get_close_matches(path.name, sorted(names), n=1, cutoff=0.4)
    fix = "finetune init legal   # writes rows to begin with"
    if close:
        meant = str(typed.with_name(close[0]))
        fix = recipe.line(key, meant) if recipe.typed(key) == str(typed) else f"path: {meant}"
    raise DataError(f"there is no file {typed}", where=where, why=f"nothing is at {path}", fix=fix)


def _typed(recipe: Recipe, key: str, number: int, path: Path) -> tuple[Path, str]:
    """Gives a path as it was typed, and where."""
    for name in (f"{key}.{number}", f"{key}.{number}.path", f"{key}.path"):
        if recipe.was_typed(name):
            return Path(recipe.typed(name)), recipe.where(name)
    return Path(recipe.typed(key)), recipe.where(key)
