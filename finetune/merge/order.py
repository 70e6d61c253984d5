"""What is to be merged: run, base and what was trained are looked at before anything is written."""

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
from finetune.merge.changes import Changes
from finetune.merge.combining import Combined
from finetune.merge.mix import ALONE, Mix
from finetune.merge.parts import check_trained, described, open_parts
from finetune.merge.trained import Trained, Tuned
from finetune.merge.weights import Weights
from finetune.model.roundtrip import quantised_weights
from finetune.plan import Plan, read_plan
from finetune.recipe import Recipe, load
from finetune.run import Run, anew, atomic, manifest
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
    """What is merged onto."""
    changes: Changes
    """The adapter of the run, or several as one; or its weights."""
    touched: dict[Stored, bool]
    """Tensors of the base that become others -> whether they were trained, or are only quantised."""
    inputs: dict[str, Any]
    """Name -> hash, or a few words."""

    @property
    def others(self) -> list[Path]:
        """Files of the base that are copied besides its shards: what serves it, no pickles, no code, nothing hidden."""
        return files_along(self.base.folder)

    @property
    def tuned(self) -> Tuned:
        """What training made, as it is run from disk."""
        if isinstance(self.changes, Trained):
            return Tuned("the trained weights", self.changes.weights, None)
        return Tuned("base and adapter", self.base, self.changes)

    @property
    def identity(self) -> dict[str, Any]:
        """By which an interrupted merge knows itself again."""
        return {**self.inputs, "run": str(self.run.path.resolve()), "version of finetune": __version__}


def take(run: Run, onto: Onto, mix: Mix = ALONE) -> Order:
    """Reads what a run was trained with and what it learnt, and the adapters that become one with its own.

    Raises:
        ArtifactError: the run did not finish, or what it learnt, its plan or base is another one now; or another
            adapter is none, or of another base, or cannot be combined.
        OutsideError: the base is neither on disk nor to be had.
    """
    told = manifest.read_begun(run.manifest)
    recipe, plan = load(run.recipe), read_plan(run.plan)
    hashes = check_trained(run, plan, told)
    parts = open_parts(run, told, mix) if plan.method != "full" else []
    folder = fetch(recipe.base, recipe.base_path, recipe.revision)
    _check_base(run, folder, told["contract"])
    quantised = quantised_weights(folder, plan) if onto == "dequantised" else {}
    if onto == "dequantised" and not quantised:
        why = f"method {plan.method} holds the base as it is"
        raise ArtifactError("nothing was quantised in this run", where=str(run.path), why=why, fix="--onto bf16")
    base = Weights(folder, quantised)
    changes: Changes
    if not parts:
        changes = Trained(run)
    else:
        changes = parts[0][0] if mix.alone else Combined(parts, base.parameters, mix.method, mix.density)
    check_index(folder, base.tensors)
    changed = changes.place(base.parameters)
    return Order(
        run,
        recipe,
        plan,
        base,
        changes,
        _touched(base, changed, quantised),
        {"base": told["contract"]["base"], "onto": onto, **hashes, **described(run, mix)},
    )


def _touched(base: Weights, changed: Collection[str], quantised: Collection[str]) -> dict[Stored, bool]:
    """Lists the tensors that become others; what training never loads, vision among it, is none of them."""
    return {t: p.name in changed for t, p in base.parts.items() if p.name in changed or p.name in quantised}


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
            why = "what was learnt is worth nothing on another one"
            raise ArtifactError(f"{what} is not the one that was trained with", where=str(where), why=why, fix=fix)


def files_along(base: Path) -> list[Path]:
    """Lists the files of a base that go with a model that is made of it, besides its shards, by their names."""
    files, weights = sorted(file for file in base.iterdir() if file.is_file()), shards(base)
    return [file for file in files if is_taken(file.name) and file not in weights]


def is_taken(name: str) -> bool:
    """Tells whether a file of a base goes with a model that is made of it: no pickles, no code, nothing hidden."""
    known = any(fnmatch(name, pattern) for pattern in (*WANTED, "NOTICE*"))
    return known and not name.startswith(".") and not name.endswith(".safetensors") and name not in NOT_TAKEN


def again(run: Run, onto: str, out: Path, mix: Mix = ALONE, *, adapter_only: bool = False) -> str:
    """Gives the command that goes on with a merge."""
    words = ["finetune", "merge", *mix.words(run)]
    words += ["--onto", onto] if onto != "bf16" else []
    words += ["--adapter-only"] if adapter_only else []
    words += ["--out", os.fspath(out)] if out != mix.folder(run, "adapter" if adapter_only else "merged") else []
    return shlex.join(words)
