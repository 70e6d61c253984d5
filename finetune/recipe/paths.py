"""Paths of a recipe: relative to its file as typed, absolute once loaded, relative again when written out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PATH_KEYS = ("data.train", "data.eval", "base_path")


def is_folder(base: str) -> bool:
    """Tells whether a base is a local folder; a Hub id never starts with a dot, a slash or a tilde."""
    return base.startswith((".", "/", "~"))


def anchor_paths(values: dict[str, Any], folder: Path) -> dict[str, str]:
    """Makes the paths among the values absolute, seen from `folder`; returns them as they were typed."""
    typed: dict[str, str] = {}
    for key, holder, name in _paths(values):
        if holder[name]:
            typed[key] = holder[name]
            holder[name] = _absolute(holder[name], folder)
    base = values.get("base")
    if isinstance(base, str) and base and (is_folder(base) or os.path.isdir(folder / base)):
        values["base"] = _absolute(base, folder)
    return typed


def detach_paths(values: dict[str, Any], folder: Path) -> None:
    """Makes the paths among the values relative again, seen from `folder`."""
    for _, holder, name in _paths(values):
        holder[name] = relative(holder[name], folder)


def _paths(values: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yields (dotted key, holder, its key or index) of each path among the values; data.train may hold several."""
    for key in PATH_KEYS:
        holder, name = holder_of(values, key)
        yield from _within(key, holder, name)
    holder, name = holder_of(values, "evaluate.tasks")
    tasks = holder.get(name)
    for i, task in enumerate(tasks if isinstance(tasks, list) else ()):
        for part in ("file", "json_schema", "lm_eval"):
            told = task.get(part) if isinstance(task, dict) else None
            if isinstance(told, str) and (part != "lm_eval" or told.endswith((".yaml", ".yml"))):
                yield f"evaluate.tasks.{i}.{part}", task, part


def _within(key: str, holder: Any, name: Any) -> Iterator[tuple[str, Any, Any]]:
    value = holder.get(name) if isinstance(holder, dict) else holder[name]
    if isinstance(value, str):
        yield key, holder, name
    elif isinstance(value, dict) and key.startswith("data.train"):
        yield from _within(f"{key}.path", value, "path")
    elif isinstance(value, list) and key == "data.train":
        for i in range(len(value)):
            yield from _within(f"{key}.{i}", value, i)


def _absolute(path: str, folder: Path) -> str:
    return os.path.abspath(folder / os.path.expanduser(path))


def relative(path: str, folder: Path) -> str:
    """Writes a path as seen from a folder; a leading tilde is part of a name there, not a home."""
    told = os.path.relpath(path, folder)
    return f"./{told}" if told.startswith("~") else told


def holder_of(values: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """Finds the mapping that holds a dotted key, and the key's last part; an empty one where there is none."""
    section, _, name = key.rpartition(".")
    holder = values.get(section) if section else values
    return (holder if isinstance(holder, dict) else {}), name
