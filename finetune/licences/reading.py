"""Under which licence a base is, as its own files state it; without them, as is known of Qwen's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from finetune.errors import ArtifactError
from finetune.licences.combining import Stated
from finetune.licences.table import known
from finetune.shards import read_json

PUBLISHED = ("Qwen/Qwen3.5-", "Qwen/Qwen3.6-")
"""Bases that their makers put under apache-2.0. Source: their model cards."""

TEXTS = {
    "apache-2.0": r"Apache License\s+Version 2\.0",
    "mit": r"Permission is hereby granted, free of charge, to any person obtaining a copy",
    "agpl-3.0": r"GNU AFFERO GENERAL PUBLIC LICENSE\s+Version 3",
    "lgpl-3.0": r"GNU LESSER GENERAL PUBLIC LICENSE\s+Version 3",
    "gpl-3.0": r"GNU GENERAL PUBLIC LICENSE\s+Version 3",
    "cc-by-nc-4.0": r"Attribution-NonCommercial 4\.0 International",
    "cc-by-sa-4.0": r"Attribution-ShareAlike 4\.0 International",
    "cc-by-4.0": r"Attribution 4\.0 International",
}
"""What the text of a licence says near its beginning."""

HEAD_CHARACTERS = 4096

FRONT = re.compile(r"\s*---\r?\n(.*?)\r?\n---", re.DOTALL)


def licence_of_base(name: str, base: str | None, folder: Path | None) -> Stated:
    """Looks under which licence a base is: its card's head, the text of its licence, its config, then what is known.

    Where two of them differ nothing is taken for stated.

    Args:
        name: how the base is called.
        base: its Hub id, if it has one.
        folder: where it lies on the disk, if it does.
    """
    head = _head(folder / "README.md") if folder else {}
    found: dict[str, str] = {}
    if isinstance(told := head.get("license"), str):
        found["the head of its README.md"] = told
    if folder:
        found |= {f"its {file.name}": id for file in sorted(folder.glob("LICENSE*")) if (id := _recognised(file))}
        found |= _in_config(folder)
    if not found and base and base.startswith(PUBLISHED):
        return Stated(name, "apache-2.0", "known of Qwen's bases")
    ids = {licence.id if (licence := known(word)) else word for word in found.values()}
    if len(ids) > 1:
        return Stated(
            name, None, "its files contradict each other: " + ", ".join(f"{k}: {v}" for k, v in found.items())
        )
    for where, word in found.items():
        named, link = head.get("license_name"), head.get("license_link")
        shown = f"other ({named})" if word == "other" and isinstance(named, str) else word
        return Stated(name, shown, where, link if isinstance(link, str) and link.startswith("https://") else "")
    return Stated(name, None, "no file of it says")


def _head(file: Path) -> dict[str, Any]:
    """Reads the head of a card; nothing where it has none that can be read."""
    if not file.is_file():
        return {}
    front = FRONT.match(file.read_text(errors="replace"))
    try:
        told = yaml.safe_load(front[1]) if front else None
    except yaml.YAMLError:
        return {}
    return told if isinstance(told, dict) else {}


def _recognised(file: Path) -> str | None:
    """Recognises a licence by its text."""
    with file.open(errors="replace") as opened:
        text = opened.read(HEAD_CHARACTERS)
    return next((id for id, pattern in TEXTS.items() if re.search(pattern, text)), None)


def _in_config(folder: Path) -> dict[str, str]:
    try:
        told = read_json(folder / "config.json", "the base's config").get("license")
    except ArtifactError:
        return {}
    return {"its config.json": told} if isinstance(told, str) else {}
