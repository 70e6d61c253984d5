"""Paths of a recipe: relative to its file as typed, absolute once loaded, relative again when written out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

PATH_KEYS = ("data.train", "data.eval", "base_path")


def is_folder(base: str) -> bool:
    """Tells whether a base is a local folder; a Hub id never starts with a dot, a slash or a tilde."""
    return base.startswith((".", "/", "~"))


def anchor_paths(values: dict[str, Any], folder: Path) -> dict[str, str]:
    """Makes the paths among the values absolute, seen from `folder`; returns them as they were typed."""
    typed: dict[str, str] = {}
    for key in PATH_KEYS:
        holder, name = holder_of(values, key)
        if isinstance(holder.get(name), str) and holder[name]:
            typed[key] = holder[name]
            holder[name] = _absolute(holder[name], folder)
    base = values.get("base")
    if isinstance(base, str) and base and (is_folder(base) or os.path.isdir(folder / base)):
        values["base"] = _absolute(base, folder)
    return typed


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
