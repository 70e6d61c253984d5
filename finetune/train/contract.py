"""What must be the same for a resumed run to be the same run. Whatever differs is refused by name."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from finetune import __version__
from finetune.data import Dataset
from finetune.errors import ArtifactError, Problem
from finetune.hardware import Hardware
from finetune.recipe import Recipe, dump
from finetune.run import Run, anew, atomic, manifest
from finetune.shape import fingerprint

PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "safetensors", "tokenizers")

NAMES = {
    "data": "the rows, or how they are rendered",
    "template": "the base's chat template",
    "tokenizer": "the base's tokenizer",
    "base": "the base's weights",
    "device": "the device",
}


def versions() -> dict[str, str]:
    """Gives the versions of the packages that decide what training computes."""
    found = {"finetune": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


LATER = ("evaluate", "card", "publish")
"""Sections that training does not read: in a run's recipe they may be edited at any time."""


def contract(recipe_yaml: str, plan_json: str, base: Path, dataset: Dataset, hardware: Hardware) -> dict[str, Any]:
    """Gathers everything that the result depends on, as hashes and names."""
    return {
        "recipe": hashlib.sha256(recipe_yaml.encode()).hexdigest(),
        "wishes": _wishes(recipe_yaml),
        "plan": hashlib.sha256(plan_json.encode()).hexdigest(),
        "data": dataset.sha256,
        "template": dataset.renderer.template.sha256,
        "tokenizer": dataset.renderer.vocabulary.sha256,
        "base": fingerprint(base),
        "device": ", ".join(hardware.gpus[:1]) or "cpu",
        "threads": _threads(),
        "versions": versions(),
    }


def check_unedited(run: Run, recipe: Recipe) -> None:
    """Compares the run's recipe and plan with those it was begun with, before anything that they name is touched.

    Raises:
        ArtifactError: naming each key that differs.
    """
    begun = manifest.read_begun(run.manifest)["contract"]
    problems = list(_changed_wishes(begun["wishes"], recipe, run))
    if atomic.sha256(run.plan) != begun["plan"]:
        why = "a plan follows from a recipe and is never edited"
        fix = f"put it back, or begin a new run: {anew(run)}"
        problems.append(Problem("the plan changed since the run began", str(run.plan), why, fix))
    if problems:
        raise ArtifactError.of(problems)


def check(run: Run, base: Path, dataset: Dataset, hardware: Hardware) -> dict[str, Any]:
    """Compares what a run was begun with against what there is now; returns what it was begun with.

    Raises:
        ArtifactError: naming each thing that differs.
    """
    begun: dict[str, Any] = manifest.read_begun(run.manifest)["contract"]
    now = contract(run.recipe.read_text(), run.plan.read_text(), base, dataset, hardware)
    problems = [
        Problem(
            f"{told} changed since the run began",
            str(run.path),
            f"it was {begun[key][:16]} and is {now[key][:16]}",
            f"put it back, or begin a new run: {anew(run)}",
        )
        for key, told in NAMES.items()
        if begun[key] != now[key]
    ]
    changed = {p: v for p, v in begun["versions"].items() if now["versions"].get(p) != v}
    if changed:
        told = ", ".join(f"{p} {v} is now {now['versions'].get(p, 'absent')}" for p, v in changed.items())
        fix = "pip install " + " ".join(f"{p}=={v}" for p, v in changed.items() if p not in ("python", "finetune"))
        problems.append(Problem("the packages changed since the run began", str(run.path), told, fix))
    if problems:
        raise ArtifactError.of(problems)
    return begun


def _wishes(recipe_yaml: str) -> dict[str, Any]:
    """Lists every key that training follows from, dotted, with its value as it stands in the recipe's file."""
    flat: dict[str, Any] = {}
    for key, value in yaml.safe_load(recipe_yaml).items():
        if key in LATER:
            continue
        flat |= {f"{key}.{name}": inner for name, inner in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _changed_wishes(begun: dict[str, Any], recipe: Recipe, run: Run) -> Iterator[Problem]:
    now = _wishes(dump(recipe, run.path))
    for key, value in begun.items():
        if now.get(key) != value:
            told, was = json.dumps(now.get(key), ensure_ascii=False), json.dumps(value, ensure_ascii=False)
            why = f"it was {was} when the run began and is {told}"
            fix = f"{key}: {was}   # or begin a new run: {anew(run)}"
            yield Problem(f"{key} of the run's recipe changed", recipe.where(key), why, fix)


def _threads() -> int:
    """Threads of CPU arithmetic: another number adds in another order, and the last bits differ."""
    import torch

    return int(os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads())
