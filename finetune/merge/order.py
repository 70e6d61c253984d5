"""What is to be merged: run, adapter and base are looked at before anything is written."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from finetune import __version__
from finetune.data.template import read_template
from finetune.data.vocabulary import read_vocabulary
from finetune.errors import ArtifactError
from finetune.hub import WANTED, fetch
from finetune.merge.changes import Adapter
from finetune.merge.weights import Weights
from finetune.model.roundtrip import quantised_weights
from finetune.plan import Plan, read_plan
from finetune.recipe import Recipe, load
from finetune.run import Run, anew, atomic, manifest, resume
from finetune.shape import fingerprint
from finetune.shards import Stored, check_index, shards

Onto = Literal["bf16", "dequantised"]

NOT_TAKEN = ("demo_base.json",)
"""What the base's folder says of itself, and would not be true of another."""


@dataclass(frozen=True)
class Order:
    """All that the merged model follows from."""

    run: Run
    recipe: Recipe
    plan: Plan
    base: Weights
    """What the adapter is merged onto."""
    adapter: Adapter
    touched: dict[Stored, bool]
    """Tensors of the base that become others -> whether an adapter is on them, or they are only quantised."""
    inputs: dict[str, str]
    """Name -> hash, or a word."""

    @property
    def others(self) -> list[Path]:
        """Files of the base that are copied besides its shards: what serves it, no pickles, no code, nothing hidden."""
        files = sorted(file for file in self.base.folder.iterdir() if file.is_file())
        return [file for file in files if is_taken(file.name) and file not in shards(self.base.folder)]

    @property
    def identity(self) -> dict[str, str]:
        """By which an interrupted merge knows itself again."""
        return {**self.inputs, "run": str(self.run.path.resolve()), "version of finetune": __version__}


def take(run: Run, onto: Onto) -> Order:
    """Reads what a run was trained with and what it learnt.

    Raises:
        ArtifactError: the run did not finish or has no adapter, or its adapter, plan or base is another one now.
        OutsideError: the base is neither on disk nor to be had.
    """
    told = manifest.read_begun(run.manifest)
    recipe, plan = load(run.recipe), read_plan(run.plan)
    hashes = _check_adapter(run, plan, told)
    folder = fetch(recipe.base, recipe.base_path, recipe.revision)
    _check_base(run, folder, told["contract"])
    quantised = quantised_weights(folder, plan) if onto == "dequantised" else {}
    if onto == "dequantised" and not quantised:
        why = f"method {plan.method} holds the base as it is"
        raise ArtifactError("nothing was quantised in this run", where=str(run.path), why=why, fix="--onto bf16")
    base, adapter = Weights(folder, quantised), Adapter(run.adapter)
    check_index(folder, base.tensors)
    changed = adapter.place(base.parameters)
    return Order(
        run,
        recipe,
        plan,
        base,
        adapter,
        _touched(base, changed, quantised),
        {"base": told["contract"]["base"], "onto": onto, **hashes},
    )


def _touched(base: Weights, changed: Collection[str], quantised: Collection[str]) -> dict[Stored, bool]:
    """Lists the tensors that become others; what training never loads, vision among it, is none of them."""
    return {t: p.name in changed for t, p in base.parts.items() if p.name in changed or p.name in quantised}


def _check_adapter(run: Run, plan: Plan, told: dict[str, Any]) -> dict[str, str]:
    """Gives the hashes of the adapter's files, which are those that training proved.

    Raises:
        ArtifactError: there is no adapter, or it is another one.
    """
    if plan.method == "full":
        why = "method full trains every weight, so there is no adapter to merge"
        fix = f"ls {shlex.quote(str(run.weights))}   # once it is trained, this is the whole model"
        raise ArtifactError("this run's model is whole already", where=str(run.weights), why=why, fix=fix)
    entry = next((stage for stage in reversed(told["stages"]) if stage["stage"] == "train"), None)
    if entry is None:
        why = "training did not finish"
        raise ArtifactError("the run has no adapter", where=str(run.path), why=why, fix=resume(run.path))
    for name, digest in entry["outputs"].items():
        file = run.path / name
        if not file.is_file() or atomic.sha256(file) != digest:
            what = f"{name} is {'not the one that was proven' if file.is_file() else 'gone'}"
            fix = f"put it back, or train anew: {anew(run)}"
            raise ArtifactError(what, where=str(file), why="its hash stands in the manifest", fix=fix)
    return dict(entry["outputs"])


def _check_base(run: Run, base: Path, begun: dict[str, Any]) -> None:
    """Makes sure that the base is the one that was trained on.

    Raises:
        ArtifactError: naming what differs.
    """
    for what, where, was, now in (
        ("the run's plan", run.plan, begun["plan"], atomic.sha256(run.plan)),
        ("the base", base, begun["base"], fingerprint(base)),
        ("the base's tokenizer", base, begun["tokenizer"], read_vocabulary(base).sha256),
        ("the base's chat template", base, begun["template"], read_template(base).sha256),
    ):
        if was != now:
            fix = f"put it back as it was, or train anew: {anew(run)}"
            why = "the adapter is worth nothing on another one"
            raise ArtifactError(f"{what} is not the one that was trained with", where=str(where), why=why, fix=fix)


def is_taken(name: str) -> bool:
    """Tells whether a file of a base goes with a model that is made of it: no pickles, no code, nothing hidden."""
    known = any(fnmatch(name, pattern) for pattern in (*WANTED, "NOTICE*"))
    return known and not name.startswith(".") and not name.endswith(".safetensors") and name not in NOT_TAKEN


def again(run: Run, onto: str, out: Path) -> str:
    """Gives the command that goes on with a merge."""
    words = ["finetune", "merge", str(run.path)]
    words += ["--onto", onto] if onto != "bf16" else []
    words += ["--out", os.fspath(out)] if out != run.merged else []
    return shlex.join(words)
