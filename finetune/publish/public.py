"""What is told of a run to others: its manifest and recipe without what only this machine knows."""

from __future__ import annotations

import json
import re
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml

from finetune.run import Run

PATH = re.compile(r"(?:(?<![\w:/.])/|(?<!\w)~/|(?<!\w)[A-Za-z]:\\|(?<![\w/])(?:\.\./)+)[^\s\"'<>|,;)]+")
"""A path of this machine: from the root, from a home, or out of the run's folder."""

UNTOLD_HEAD = ("notes",)
"""Of the manifest's head: notes name files and lines of rows."""

UNTOLD_WISHES = ("base_path", "publish")
"""Of a recipe: where the base lies here, and where copies go."""


def manifest_of(run: Run, told: dict[str, Any], forced: str = "") -> dict[str, Any]:
    """Gives a manifest as it is published: every hash and figure, of paths their last part.

    What was published before is left out, so that publishing twice is publishing the same.

    Args:
        run: whose it is.
        told: the manifest.
        forced: why it is published although something speaks against it, which stays with the files.
    """
    stages = [stage for stage in told["stages"] if stage["stage"] != "publish"]
    head = {key: value for key, value in told.items() if key not in (*UNTOLD_HEAD, "stages")}
    contract = dict(head.get("contract", {}))
    contract["wishes"] = {
        key: value for key, value in contract.get("wishes", {}).items() if key.partition(".")[0] not in UNTOLD_WISHES
    }
    public: dict[str, Any] = without_paths({**head, "contract": contract, "stages": stages}, run.path.resolve())
    return {**public, "forced": without_paths(forced, run.path.resolve())} if forced else public


def recipe_of(run: Run) -> str:
    """Gives a recipe as it is published: rows are to be laid beside it."""
    told = yaml.safe_load(run.recipe.read_text())
    kept = {key: value for key, value in told.items() if key not in UNTOLD_WISHES}
    return yaml.safe_dump(without_paths(kept, run.path.resolve()), sort_keys=False, allow_unicode=True)


def told_to_others(run: Run, file: Path) -> Any:
    """Gives a file of JSON as it is published."""
    return without_paths(json.loads(file.read_bytes()), run.path.resolve())


def without_paths(value: Any, run: Path) -> Any:
    """Shortens every path within a value: to what it is within the run, or to its last part."""
    if isinstance(value, dict):
        return {
            without_paths(key, run): each if key == "system" else without_paths(each, run)  # a prompt is no path
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [without_paths(each, run) for each in value]
    if not isinstance(value, str):
        return value
    return PATH.sub(lambda found: _short(found.group()), value.replace(f"{run}/", ""))


def _short(path: str) -> str:
    return PureWindowsPath(path).name or "…"
