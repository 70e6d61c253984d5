"""`finetune verify`: looks at a run, a whole model, an adapter or a GGUF, and says of each thing whether it holds.

A folder is not taken at its word: hashes come from the run's manifest, names and shapes from the base's shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import ArtifactError
from finetune.hub import locate
from finetune.model.adapter import CONFIG
from finetune.recipe import load
from finetune.run import Claim, Run, claim, open_run
from finetune.verify.adapters import check_adapter, read_config
from finetune.verify.chain import check_chain
from finetune.verify.ggufs import check_gguf
from finetune.verify.models import check_model
from finetune.verify.published import check_published, is_published

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Around:
    """What a folder is compared with."""

    run: Run | None
    """That the folder lies in."""
    base: Path | None
    """On the disk."""


def verify(path: Path, base: Path | None, cache: Path, progress: Progress) -> Iterator[Claim]:
    """Gives one claim after another; one that does not hold says what is found instead.

    Args:
        path: a run, a model's folder, an adapter's, a GGUF, or a folder of GGUF files, published ones too.
        base: the base's folder; without one that of the run around, or that the adapter's config names.
        cache: where a fetched converter is kept.
        progress: is told how many bytes were read.

    Raises:
        ArtifactError: there is none of these at the path.
        OutsideError: a GGUF cannot be read, for llama.cpp's reader cannot be had.
    """
    around = _around(path, base)
    if published := is_published(path):
        yield from _told(lambda: check_published(path))
    if around.run is not None and path.resolve() == around.run.path.resolve():
        yield from check_chain(around.run, around.base, progress)
    elif (path / CONFIG).is_file() and published and around.base is None:
        yield claim("the adapter was not compared with its base", "--base FOLDER does")
    elif (path / CONFIG).is_file():
        yield from _told(lambda: check_adapter(path, around.base or _named(path)))
    elif (path / "config.json").is_file():
        yield from _told(lambda: check_model(path, around.base, progress))
    elif files := [path] if path.suffix == ".gguf" and path.is_file() else sorted(path.glob("*.gguf")):
        for file in files:
            yield from _told(lambda file=file: check_gguf(file, around.run, cache))  # type: ignore[misc]
    else:
        why = f"a run has a manifest.json, a model a config.json, an adapter an {CONFIG}, and a GGUF ends in .gguf"
        fix = "finetune runs   lists the runs"
        raise ArtifactError("there is nothing to verify", where=str(path), why=why, fix=fix)


def _told(check: Callable[[], Iterator[Claim]]) -> Iterator[Claim]:
    """Turns an artifact that is not what it should be into a claim that does not hold."""
    try:
        yield from check()
    except ArtifactError as error:
        for problem in error.problems:
            told = "; ".join(part for part in (problem.where, problem.why, problem.fix) if part)
            yield {"claim": problem.what, "measured": told, "tolerance": None, "holds": False}


def _around(path: Path, base: Path | None) -> Around:
    """Finds the run that a path is or lies in, and its base, where that is on the disk.

    Raises:
        ArtifactError: the base that was told is none.
    """
    if base is not None:
        base = locate(str(base), base, None)
    absolute = path.absolute()
    for folder in (absolute, *list(absolute.parents)[:2]):
        try:
            run = open_run(folder)
        except ArtifactError:
            continue
        return Around(run, base or _of_run(run))
    return Around(None, base)


def _of_run(run: Run) -> Path | None:
    """Finds the base of a run; None where it is not on this disk any more, or is none any more."""
    recipe = load(run.recipe)
    try:
        return locate(recipe.base, recipe.base_path, recipe.revision)
    except ArtifactError:
        return None


def _named(adapter: Path) -> Path:
    """Finds the base that an adapter's config names.

    Raises:
        ArtifactError: it is not on the disk, or the config is damaged.
    """
    told = read_config(adapter).get("base_model_name_or_path") or ""
    try:
        found = locate(told, None, None) if told and isinstance(told, str) else None
    except ArtifactError:
        found = None
    if found is None:
        why = f"its config names {told!r}, which is not on this disk" if told else "its config names none"
        raise ArtifactError("an adapter is compared with its base", where=str(adapter), why=why, fix="--base FOLDER")
    return found
