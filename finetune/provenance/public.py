"""What is told of a run to others: its recipe without what only this machine knows, and of every path the last part."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml

from finetune.recipe import is_folder
from finetune.recipe.paths import anchor_paths
from finetune.run import Run

PATH = re.compile(
    r"file://[^\s\"'<>]+"
    r"|(?<![\w\\])\\\\[\w.$-]+\\[^\s\"'<>|,;)]+"
    r"|(?:(?<![\w/.])/(?!/)|(?<!\w)~/|(?<!\w)[A-Za-z]:\\|(?<![\w/])(?:\.\./)+)[^\s\"'<>|,;)]+"
)
"""A path of this machine: from the root, from a home, of a server of files, or out of the run's folder."""

UNTOLD_WISHES = ("base_path", "publish")
"""Of a recipe: where the base lies here, and where copies go."""


def public_recipe(run: Run, *untold: str) -> str:
    """Gives a recipe as others may read it: rows are to be laid beside it.

    Args:
        run: whose it is.
        untold: more of its parts that are left out.
    """
    told = yaml.safe_load(run.recipe.read_text())
    typed = set(anchor_paths(copy.deepcopy(told), run.path).values())
    kept = {key: value for key, value in told.items() if key not in (*UNTOLD_WISHES, *untold)}
    if isinstance(base := kept.get("base"), str) and is_folder(base):
        kept["base"] = f"./{last_part(base)}"
    shown = without_paths(_with_names(kept, typed), run.path.resolve())
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=100)


def without_paths(value: Any, run: Path) -> Any:
    """Shortens every path within a value: to what it is within the run, or to its last part."""
    if isinstance(value, dict):
        told: dict[Any, Any] = {}
        for key, each in value.items():
            name = numbered(without_paths(key, run), told)
            told[name] = each if key == "system" else without_paths(each, run)  # a prompt is no path
        return told
    if isinstance(value, list):
        return [without_paths(each, run) for each in value]
    if not isinstance(value, str):
        return value
    return PATH.sub(lambda found: last_part(found.group()), value.replace(f"{run}/", ""))


def numbered(name: str, taken: Collection[str]) -> str:
    """Gives a name that is not taken: with a number before its ending, if it has to be."""
    stem, dot, ending = name.rpartition(".")
    stem, ending = (stem, dot + ending) if stem else (name, "")
    others = (f"{stem}-{number}{ending}" for number in range(2, len(taken) + 3))
    return next(each for each in (name, *others) if each not in taken)


def last_part(path: str) -> str:
    """Gives the name of what a path leads to, whatever system it is of."""
    return PureWindowsPath(path.removeprefix("file://")).name or "…"


def _with_names(value: Any, paths: set[str]) -> Any:
    """Writes of each value that is a path as a whole, blanks in it and all, the last part."""
    if isinstance(value, dict):
        return {key: each if key == "system" else _with_names(each, paths) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_names(each, paths) for each in value]
    return last_part(value) if isinstance(value, str) and value in paths else value
