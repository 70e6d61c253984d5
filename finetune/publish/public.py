"""What is told of a run to others: its manifest, and files beside it, without what only this machine knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune.provenance import UNTOLD_WISHES, without_paths
from finetune.run import Run

UNTOLD_HEAD = ("notes",)
"""Of the manifest's head: notes name files and lines of rows."""


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


def told_to_others(run: Run, file: Path) -> Any:
    """Gives a file of JSON as it is published."""
    return without_paths(json.loads(file.read_bytes()), run.path.resolve())


def items_of(run: Run, file: Path) -> str:
    """Gives the items of an evaluation as they are published: as they are, but for the folder that a row lies in."""
    lines = []
    for line in filter(None, file.read_text(encoding="utf-8").split("\n")):
        told = json.loads(line)
        place = {"place": without_paths(told["place"], run.path.resolve())} if "place" in told else {}
        lines.append(json.dumps({**told, **place}, ensure_ascii=False) + "\n")
    return "".join(lines)
