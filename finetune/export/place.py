"""Where an export may write: beside nothing of another's, over nothing of another's. Asked before anything is made."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from finetune.errors import ArtifactError
from finetune.export.beside import PARTS
from finetune.export.made import gguf_file
from finetune.export.projector import projector_name
from finetune.export.quality import PICTURE, TABLE
from finetune.hub import locate
from finetune.recipe import load
from finetune.run import Run, manifest, outputs

ELSEWHERE = "name another folder by --out"


def names(run: Run, kinds: Sequence[str], parts: Sequence[str]) -> list[str]:
    """Lists what an export writes into its folder, and the projector, which its Modelfile would name."""
    of_model = [gguf_file(run, Path(), kind).name for kind in kinds]
    of_model += ["Modelfile", TABLE, PICTURE, projector_name(run)] if kinds else []
    return of_model + [name for part in parts for name in PARTS[part].names(run)]


def check_place(run: Run, stage: str, folder: Path, written: Iterable[str] = ()) -> None:
    """Makes sure that an export harms nobody by what it writes.

    In the run's own folder a file without an entry in the manifest is one that a kill left; elsewhere it may be
    another run's.

    Args:
        run: that is exported.
        stage: export, or vllm.
        folder: to write to.
        written: names of the files in it.

    Raises:
        ArtifactError: the folder is another part of the run or no folder, or files that are not this run's lie there.
        OutsideError: the base is not where the recipe says.
        RecipeError: the run's recipe is damaged.
    """
    place, root = _real(folder), _real(run.path)
    made = outputs.made_by(manifest.read(run.manifest))
    if place == root or any(place.is_relative_to(part) for part in _parts(run, made, stage) - {root}):
        what, why = "this folder is another part of the run", "what is written into it would be taken for that part's"
        raise ArtifactError(what, where=str(folder), why=why, fix=f"{ELSEWHERE}, or leave it out")
    nearest = next(each for each in (place, *place.parents) if os.path.lexists(each))
    if not os.path.isdir(nearest):
        raise ArtifactError("this is no folder", where=str(nearest), why="files go into one", fix=ELSEWHERE)
    known = {_real(run.path / name) for name in made}
    for file in (folder / name for name in written):
        foreign = not place.is_relative_to(root) and _real(file) not in known
        if os.path.lexists(file) and (foreign or not os.path.isfile(file)):
            fix = f"--out ANOTHER-FOLDER   # or, if nobody needs it: rm {shlex.quote(str(file))}"
            why = "this run's manifest does not name it" if foreign else "it is no file"
            raise ArtifactError(f"another {file.name} lies there", where=str(file), why=why, fix=fix)


def _parts(run: Run, made: dict[str, tuple[str, str]], stage: str) -> set[Path]:
    """Lists the folders that others read: of the run, its base, and what other stages made."""
    recipe = load(run.recipe)
    base = locate(recipe.base, recipe.base_path, recipe.revision)
    others = [(run.path / name).parent for name, (_, by) in made.items() if by != stage]
    fixed = [run.adapter, run.weights, run.merged, run.checkpoints, *([base] if base else [])]
    return {_real(each) for each in (*fixed, *others)}


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
