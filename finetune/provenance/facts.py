"""All that is known of a run, read from its files: what its card, its bill of materials and its summaries are views of.

Nothing here is typed by hand but the recipe's own words, and no path of this machine is passed on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetune.errors import ArtifactError, RecipeError
from finetune.hub import locate
from finetune.licences import Stated, Verdict, combine, licence_of_base
from finetune.plan import Plan, read_plan
from finetune.provenance.asked import Asked, read_asked
from finetune.provenance.origins import Origin, Origins, read_origins
from finetune.recipe import Recipe, is_folder, load
from finetune.run import Run, manifest, outputs, resume
from finetune.shards import read_json

Artifact = Literal["adapter", "merged", "gguf"]

EVALUATION: Mapping[str, type] = {"sides": dict, "tasks": list, "gate": dict, "notes": list}
LEDGER: Mapping[str, type] = {"steps": list, "examples": dict, "advice": list}
"""What a reader of these files needs, and of what kind."""

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
        """Gives the files of an artifact, by their names in it, with the hash that was proven of each."""
        prefix = f"{artifact}/"
        made = {name: digest for name, (digest, _) in outputs.made_by(self.told).items() if name.startswith(prefix)}
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
    recipe, plan = load(run.recipe, overrides), read_plan(run.plan)
    base, evaluation = _locate(recipe), _read(run, told, run.evaluation, "evaluate", EVALUATION)
    return Facts(
        run=run,
        recipe=recipe,
        plan=plan,
        told=told,
        base=base,
        data=read_origins(recipe, base, told["contract"]["data"]),
        evaluation=evaluation,
        ledger=_read(run, told, run.ledger, "ledger", LEDGER),
        asked=read_asked(recipe, evaluation),
        told_base_id=base_id,
    )


def _read(run: Run, told: dict[str, Any], file: Path, stage: str, parts: Mapping[str, type]) -> dict[str, Any] | None:
    """Reads what another stage wrote, if it is there, once it is compared with its hash in the manifest.

    Raises:
        ArtifactError: it is damaged, is not the one that the manifest proves, or no stage wrote it.
    """
    if not file.is_file():
        return None
    name, fix = run.named(file), outputs.command(stage, run)
    try:
        value = read_json(file, f"the run's {file.stem}")
    except ArtifactError as error:  # which looks for it where a base came from
        problem = error.problems[0]
        raise ArtifactError(problem.what, where=problem.where, why=problem.why, fix=fix) from None
    if wrong := [key for key, kind in parts.items() if not isinstance(value.get(key), kind)]:
        raise ArtifactError(f"the run's {file.stem} is damaged", where=str(file), why=f"it lacks {wrong[0]}", fix=fix)
    digest, _ = outputs.made_by(told).get(name, ("", ""))
    if not digest:
        why = "no stage in the manifest made it, so nothing says that its figures were measured"
        raise ArtifactError(f"{name} is of no stage of this run", where=str(file), why=why, fix=fix)
    outputs.check(run, {name: digest}, fix)
    return value


def _locate(recipe: Recipe) -> Path | None:
    """Finds the base; None where it is not on this disk any more."""
    try:
        return locate(recipe.base, recipe.base_path, recipe.revision)
    except ArtifactError:
        return None


def _stated(sources: Sequence[Origin]) -> list[Stated]:
    return [Stated(each.name, each.license, "the recipe", hub=each.hub) for each in sources if not each.held_out]
