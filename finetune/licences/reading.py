"""Under which licence a base is, as its own files state it; without them, as is known of Qwen's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from finetune.errors import ArtifactError
from finetune.licences.combining import Stated
from finetune.licences.table import known
from finetune.licences.texts import recognised
from finetune.shards import read_json

PUBLISHED = ("Qwen/Qwen3.5-", "Qwen/Qwen3.6-")
"""Bases that their makers put under apache-2.0. Source: their model cards."""

NAMES = ("license", "licence", "copying")
"""How the files begin that hold a licence, whatever their case; `LICENSES` is a folder of them."""

MOST_CHARACTERS = 1_000_000
"""Of a file that is read; the longest licence of the Hub has some 40,000."""

KEYS = ("license", "licence")
"""Under which a card names it, whatever their case."""

FRONT = re.compile(r"\s*---[ \t]*\n(.*?)\n---", re.DOTALL)

NO_TEXT = ("", "null", "~")
"""How YAML writes that a key has no value."""


def licence_of_base(name: str, base: str | None, folder: Path | None) -> Stated:
    """Looks under which licence a base is: its card's head, the text of its licence, its config, then what is known.

    Where two of them differ nothing is taken for stated; a text that is none of the known ones agrees with `other`.

    Args:
        name: how the base is called.
        base: its Hub id, if it has one.
        folder: where it lies on the disk, if it does.
    """
    head: dict[str, Any] = {}
    found: list[tuple[str, str]] = []
    if folder:
        for file in _cards(folder):
            where = f"the head of its {file.name}"
            try:
                told = _head(file)
            except (yaml.YAMLError, RecursionError):
                return Stated(name, None, f"{where} cannot be read")
            found += [(where, word) for key in told if key.lower() in KEYS for word in _words(told[key])]
            head |= told
        found += [(f"its {file.relative_to(folder).as_posix()}", id) for file in _texts(folder) for id in _in(file)]
        found += [("its config.json", word) for word in _in_config(folder)]
    if not found and base and base.startswith(PUBLISHED):
        return Stated(name, "apache-2.0", "known of Qwen's bases")
    if len({licence.id if (licence := known(word)) else word for _, word in found}) > 1:
        told_by = ", ".join(f"{where}: {word}" for where, word in found)
        return Stated(name, None, f"its files contradict each other: {told_by}")
    for where, word in found:
        named, link = head.get("license_name"), head.get("license_link")
        shown = f"other ({named})" if word == "other" and isinstance(named, str) else word
        return Stated(name, shown, where, link if isinstance(link, str) and link.startswith("https://") else "")
    return Stated(name, None, "no file of it says")


def _cards(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir()) if file.name.lower() == "readme.md" and file.is_file()]


def _texts(folder: Path) -> Iterator[Path]:
    """Lists files that hold a licence, those of a folder LICENSES too; a link to nowhere is none."""
    for path in sorted(folder.iterdir()):
        if path.name.lower().startswith(NAMES):
            yield from (file for file in (sorted(path.iterdir()) if path.is_dir() else (path,)) if file.is_file())


def _head(file: Path) -> dict[str, Any]:
    """Reads the head of a card, all its values as text, for a date in it need not be one; empty where it has none.

    Raises:
        yaml.YAMLError: it is no YAML.
        RecursionError: it is nested too deeply.
    """
    front = FRONT.match(file.read_text(encoding="utf-8-sig", errors="replace"))
    told = yaml.load(front[1], Loader=yaml.BaseLoader) if front else None
    return {key: value for key, value in told.items() if isinstance(key, str)} if isinstance(told, dict) else {}


def _words(told: Any) -> list[str]:
    """Takes what stands under `license`: one word or several; what is neither is none of the known ones."""
    words = told if isinstance(told, list) else [] if told is None else [told]
    return [word if isinstance(word, str) else "unreadable" for word in words if word not in NO_TEXT]


def _in(file: Path) -> tuple[str, ...]:
    """Tells which licences a file holds: `other` where its text is none of the known ones, none where it is empty."""
    try:
        with file.open(errors="replace") as opened:
            text = opened.read(MOST_CHARACTERS + 1)
    except OSError:
        return ("other",)
    if not text.strip():
        return ()
    return (recognised(text) if len(text) <= MOST_CHARACTERS else ()) or ("other",)


def _in_config(folder: Path) -> list[str]:
    try:
        return _words(read_json(folder / "config.json", "the base's config").get("license"))
    except ArtifactError:
        return []
