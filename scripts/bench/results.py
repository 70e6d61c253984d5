"""What is written down, after every cell, so that a run that is killed keeps what it has."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from finetune import host, nvidia
from finetune.atomic import write_json

FILE = "results.json"
SCHEMA = 1

PACKAGES = (
    *("torch", "triton", "transformers", "trl", "peft", "bitsandbytes", "accelerate"),
    *("flash-linear-attention", "fla-core", "causal-conv1d", "liger-kernel", "unsloth", "tilelang"),
)

Number = (int, float)
Maybe = (int, float, type(None))

CELL: Mapping[str, Any] = {
    "stack": str,
    "levers": (dict, type(None)),
    "tokens": int,
    "fits": bool,
    "predicted": (dict, type(None)),
    "measured": (dict, type(None)),
    "ratio": (dict, type(None)),
    "times": (dict, type(None)),
}
"""Field of a cell -> its type. Without a GPU the figures of CUDA are null; of what did not fit, all of them."""

KEYS: Mapping[str, Any] = {
    "schema": int,
    "complete": bool,
    "started": str,
    "seconds": Number,
    "command": list,
    "base": dict,
    "card": dict,
    "conditions": dict,
    "kernels": dict,
    "first_step": dict,
    "cells": list,
    "parity": list,
    "copies": list,
    "longest": list,
    "constants": dict,
    "promise": dict,
    "skipped": list,
    "failed": list,
}
"""Field of the whole -> its type."""


def begun(command: list[str]) -> dict[str, Any]:
    """Gives results in which nothing is measured yet."""
    return {
        "schema": SCHEMA,
        "complete": False,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": 0.0,
        "command": command,
        "base": {},
        "card": {},
        "conditions": conditions(),
        "kernels": {},
        "first_step": {},
        **{name: [] for name in ("cells", "parity", "copies", "longest", "skipped", "failed")},
        "constants": {},
        "promise": {},
    }


def conditions() -> dict[str, Any]:
    """Tells on what all of it is measured; which GPU is known once CUDA has started."""
    gpus = nvidia.look(10).gpus
    return {
        "gpu": None,
        "driver": gpus[0].driver if gpus else None,
        "python": platform.python_version(),
        "versions": {name: told for name in PACKAGES if (told := version_of(name)) is not None},
        "cpus": os.cpu_count(),
        "host_bytes": host.total_bytes(),
        "allocator": os.environ.get("PYTORCH_ALLOC_CONF", ""),
    }


def version_of(package: str) -> str | None:
    """Gives a package's version; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def save(results: dict[str, Any], folder: Path) -> None:
    """Writes all results so far."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FILE, results)


def load(folder: Path) -> dict[str, Any]:
    """Reads results, and ends the program where there are none."""
    try:
        results: dict[str, Any] = json.loads((folder / FILE).read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"error: {folder / FILE} cannot be read: {error}")
    wrong = faults(results)
    if wrong:
        sys.exit(f"error: {folder / FILE} is not of this benchmark: {'; '.join(wrong)}")
    return results


def faults(results: Mapping[str, Any]) -> list[str]:
    """Lists what in results is not as the tables above say."""
    wrong = _faults(results, KEYS, "results")
    if wrong:
        return wrong
    if results["schema"] != SCHEMA:
        wrong.append(f"schema {results['schema']} is not {SCHEMA}")
    for number, cell in enumerate(results["cells"]):
        wrong += _faults(cell, CELL, f"cell {number}")
    return wrong


def _faults(told: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> list[str]:
    if told.keys() != wanted.keys():
        return [f"{where} has not exactly the fields {', '.join(wanted)}"]
    return [f"{where}: {name} is {told[name]!r}" for name, kind in wanted.items() if not isinstance(told[name], kind)]
