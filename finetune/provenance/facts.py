"""All that is known of a run, read from its files: what its card, its bill of materials and its summaries are views of.

Nothing here is typed by hand but the recipe's own words, and no path of this machine is passed on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetune.errors import ArtifactError, RecipeError
from finetune.hub import locate
from finetune.licences import Stated, Verdict, combine, licence_of_base
from finetune.plan import Plan, read_plan
from finetune.provenance.asked import Asked, read_asked
from finetune.provenance.measured import public_evaluation
from finetune.provenance.origins import Origin, Origins, read_origins
from finetune.provenance.public import without_paths
from finetune.provenance.shapes import Evaluation, Ledger, Manifest, Part, damage
from finetune.recipe import Recipe, is_folder, load
from finetune.run import Run, manifest, outputs, resume

Artifact = Literal["adapter", "merged", "gguf"]

LEARNT = tuple(f"{folder}/" for folder in outputs.LEARNT)
"""Begins the names of files that a training made."""

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Facts:
    """What a run's files tell."""

    run: Run
    recipe: Recipe
    plan: Plan
    told: dict[str, Any]
    """The manifest."""
    base: Path | None
    """On the disk, if it is there."""
    data: Origins
    evaluation: dict[str, Any] | None
    """As others may read it."""
    ledger: dict[str, Any] | None
    asked: tuple[Asked, ...] = ()
    """What the evaluation asked beside the rows that training held out."""
    told_base_id: str | None = None
    """What the user calls the base on the Hub, where the recipe names a folder."""

    @property
    def base_id(self) -> str | None:
        """Of the base on the Hub; None of a folder, whose path is nobody's business."""
        return self.told_base_id if is_folder(self.recipe.base) else self.recipe.base

    @property
    def base_name(self) -> str:
        """How the base is called where it is only named."""
        return self.base_id or self.plan.base

    @property
    def revision(self) -> str | None:
        """The base's commit: the recipe's, or that of the snapshot in the Hub's cache that it lies in."""
        if self.base_id is None:
            return None
        snapshot = self.base.name if self.base else ""
        return self.recipe.revision or (snapshot if COMMIT.fullmatch(snapshot) else None)

    @property
    def trained(self) -> dict[str, Any]:
        """The newest entry of training."""
        entry = outputs.last(self.told, "train")
        assert entry is not None, "looked for when it was read"
        return entry

    def files(self, artifact: Artifact) -> dict[str, str]:
        """Gives the files of an artifact that are there, by their names in it, with the proven hash of each."""
        prefix, made_by = f"{artifact}/", outputs.made_by(self.told)
        there = [name for name in made_by if name.startswith(prefix) and (self.run.path / name).is_file()]
        made = {name: made_by[name][0] for name in there}
        return {name.removeprefix(prefix): digest for name, digest in sorted(made.items())}

    def base_licence(self) -> Stated:
        """Gives the licence that the base states."""
        return licence_of_base(self.base_name, self.base_id, self.base)

    def verdict(self) -> Verdict:
        """Combines the licences of the base and of all data with the recipe's wish.

        Raises:
            RecipeError: the wish is a misspelt identifier.
        """
        return combine(self.base_licence(), _stated(self.data.sources), self.recipe.card.license)


def read_facts(run: Run, overrides: Sequence[str] = (), base_id: str | None = None) -> Facts:
    """Reads a run that finished.

    Args:
        run: to read.
        overrides: words of `--set` for the recipe's section `card`.
        base_id: of the base on the Hub, where the recipe names a folder.

    Raises:
        ArtifactError: the run did not finish, or one of its files is damaged.
        RecipeError: its recipe is damaged, or a word would change more than the card.
    """
    if beyond := [word for word in overrides if not word.startswith("card.")]:
        why = "the run was trained with all else as it is"
        raise RecipeError("only the card's own words can be set", where=f"--set {beyond[0]}", why=why)
    told = manifest.read_begun(run.manifest)
    if outputs.last(told, "train") is None:
        raise ArtifactError(
            "this run is not finished", where=str(run.path), why="no training is proven", fix=resume(run.path)
        )
    if why := damage(told, Manifest):
        fix = f"put {run.manifest.name} back from a copy"
        raise ArtifactError("the run's manifest is damaged", where=str(run.manifest), why=why, fix=fix)
    recipe, plan = load(run.recipe, overrides), read_plan(run.plan)
    base, evaluation = _locate(recipe), _read(run, told, run.evaluation, "evaluate", Evaluation)
    return Facts(
        run=run,
        recipe=recipe,
        plan=plan,
        told=told,
        base=base,
        data=read_origins(recipe, base, told["contract"]["data"]),
        evaluation=public_evaluation(evaluation, run.path) if evaluation else None,
        ledger=without_paths(_read(run, told, run.ledger, "ledger", Ledger), run.path.resolve()),
        asked=read_asked(recipe, evaluation),
        told_base_id=base_id,
    )


def _read(run: Run, told: dict[str, Any], file: Path, stage: str, shape: type[Part]) -> dict[str, Any] | None:
    """Reads what another stage wrote, if it is there, once it is compared with its hash in the manifest.

    Raises:
        ArtifactError: it is damaged, is not the one that the manifest proves, no stage wrote it, or it is of another
            training than the newest.
    """
    if not file.is_file():
        return None
    name, fix = run.named(file), outputs.command(stage, run)
    try:
        value: Any = json.loads(file.read_bytes())
        why = damage(value, shape)
    except (ValueError, RecursionError) as error:
        why = f"it is not JSON: {error}"
    if why:
        raise ArtifactError(f"the run's {file.stem} is damaged", where=str(file), why=why, fix=fix)
    digest, _ = outputs.made_by(told).get(name, ("", ""))
    if not digest:
        why = "no stage in the manifest made it, so nothing says that its figures were measured"
        raise ArtifactError(f"{name} is of no stage of this run", where=str(file), why=why, fix=fix)
    outputs.check(run, {name: digest}, fix)
    if other := _of_another(told, stage):
        why = f"{other} is another now than the one that was measured"
        raise ArtifactError(f"{name} is of another training", where=str(file), why=why, fix=fix)
    return dict(value)


def _of_another(told: dict[str, Any], stage: str) -> str:
    """Names a file of what was learnt, that a stage took and training made anew since; nothing if all are the same."""
    entry, trained = outputs.last(told, stage), outputs.last(told, "train")
    if entry is None or trained is None:
        return ""
    took = {name: digest for name, digest in entry["inputs"].items() if name.startswith(LEARNT)}
    return next((name for name, digest in took.items() if trained["outputs"].get(name) != digest), "")


def _locate(recipe: Recipe) -> Path | None:
    """Finds the base; None where it is not on this disk any more."""
    try:
        return locate(recipe.base, recipe.base_path, recipe.revision)
    except ArtifactError:
        return None


def _stated(sources: Sequence[Origin]) -> list[Stated]:
    return [Stated(each.name, each.license, "the recipe", hub=each.hub) for each in sources if not each.held_out]
