"""Looks at the Hub's side of this machine: where bases are kept, and whether a token is there. No token is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from finetune import host
from finetune.hub import bases, home
from finetune.probes.check import Check, amount, one_line
from finetune.probes.machine import BASE_BYTES

TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def cache() -> Check:
    """Where bases are downloaded to, and whether the 27B would still fit."""
    folder = bases()
    free = host.disk_free_bytes(folder)
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.isdir(place))
    fix = "export HF_HOME=/a/larger/disk/huggingface"
    if not os.access(there, os.W_OK):
        return Check("Hub cache", "broken", f"{folder} cannot be written", fix.replace("larger", "writable"))
    if free < BASE_BYTES:
        told = f"{amount(free)} free in {folder}: Qwen3.6-27B takes {amount(BASE_BYTES)}"
        return Check("Hub cache", "slow", told, fix)
    return Check("Hub cache", "ok", f"{amount(free)} free in {folder}")


def token(asked: dict[str, Any] | str | None) -> Check:
    """Whether a token is there; what it permits only if the Hub was asked.

    Args:
        asked: what the trial `hub` told, why it failed, or None if it was not made.
    """
    file = Path(os.path.expanduser(os.environ.get("HF_TOKEN_PATH") or home() / "token"))
    variable = next((name for name in TOKEN_VARIABLES if os.environ.get(name, "").strip()), None)
    if variable is None and not (os.access(file, os.R_OK) and file.stat().st_size > 0):
        told = "none: open bases need none, private ones and publishing do"
        return Check("Hub token", "absent", told, "hf auth login")
    where = variable or str(file)
    if asked is None:
        return Check("Hub token", "ok", f"one in {where}; what it permits: finetune doctor --online")
    if isinstance(asked, str):
        return Check("Hub token", "broken", f"one in {where}, but {one_line(asked)}", "hf auth login")
    return Check("Hub token", "ok", f"{asked['name']}'s, in {where}, permits {asked['role']}")
