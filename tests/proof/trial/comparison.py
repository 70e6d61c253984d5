"""Whether two runs are the same run: their figures, what they learnt, and all that the next step would depend on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

CLOCK = ("_seconds", "_per_second")


def differences(run: Path, reference: Path) -> list[str]:
    """Names everything in which a finished run differs from the uninterrupted one; nothing is rounded."""
    found = []
    if figures(run) != figures(reference):
        found.append("metrics.jsonl")
    if _claims(run) != _claims(reference):
        found.append("the claims")
    for name in ("adapter/adapter_model.safetensors", "adapter/adapter_config.json"):
        if (run / name).read_bytes() != (reference / name).read_bytes():
            found.append(name)
    last = f"checkpoints/{_newest(reference)}"
    if _newest(run) != _newest(reference):  # the one before may be of another step: a stop saves where it stops
        return [*found, f"checkpoints/{_newest(run)} and not {_newest(reference)}"]
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        ours, theirs = (torch.load(path / last / name, weights_only=False) for path in (run, reference))
        if not equal(ours, theirs):
            found.append(f"{last}/{name}")
    found += [f"left behind: {path}" for path in run.rglob(".staging*")]
    return found


def figures(run: Path) -> list[dict[str, Any]]:
    """Reads metrics.jsonl without what a clock measured."""
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in record.items() if not key.endswith(CLOCK)} for record in records]


def equal(ours: Any, theirs: Any) -> bool:
    """Compares nested states bit for bit."""
    if isinstance(ours, torch.Tensor):
        return ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(equal(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(equal, ours, theirs))
    return bool((ours == theirs).all()) if hasattr(ours, "all") else bool(ours == theirs)


def _claims(run: Path) -> Any:
    """Reads what was proven, without the memory that a process happened to hold."""
    stages = json.loads((run / "manifest.json").read_text())["stages"]
    return [[claim for claim in stage["claims"] if not claim["claim"].startswith("memory")] for stage in stages]


def _newest(run: Path) -> str:
    return max((path.name for path in (run / "checkpoints").iterdir()), key=lambda name: int(name.rpartition("-")[2]))
