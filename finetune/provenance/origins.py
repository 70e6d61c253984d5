"""Where the rows of a run came from: each source with its files, their hashes, how many rows they hold, its licence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune import atomic
from finetune.data import Dataset, prepare
from finetune.data.sources import sources_of
from finetune.errors import ArtifactError, DataError, OutsideError
from finetune.recipe import Recipe, Source


@dataclass(frozen=True)
class OriginFile:
    """One file of rows."""

    name: str
    """Without its folder."""
    sha256: str
    rows: int


@dataclass(frozen=True)
class Origin:
    """One source of rows."""

    name: str
    """A Hub id, or the name of a file or folder without its path."""
    hub: bool
    revision: str | None
    license: str | None
    held_out: bool
    """Whether nothing of it is learnt."""
    files: tuple[OriginFile, ...] = ()
    """None where they are not on this machine, or not those of the training."""


@dataclass(frozen=True)
class Origins:
    """All of them."""

    sources: tuple[Origin, ...]
    rendered: str | None
    """Hash of the rows as they were rendered again; None where that could not be done."""
    missing: str = ""
    """Why the files are not told; empty if they are."""


def read_origins(recipe: Recipe, base: Path | None, trained: str) -> Origins:
    """Renders the rows again and, if they are those of the training, tells of each file what it holds.

    Args:
        recipe: that names them.
        base: with tokenizer and template; None where it is not on the disk.
        trained: the hash of the rows that were trained on.
    """
    sources = tuple(_sources(recipe))
    if base is None:
        return Origins(sources, None, "the base, with whose tokenizer they are rendered, is not on this machine")
    try:
        dataset = prepare(recipe, base)
    except (ArtifactError, DataError, OutsideError) as error:
        return Origins(sources, None, error.problems[0].what)
    if dataset.sha256 != trained:
        return Origins(sources, dataset.sha256, "the rows on the disk are not those of the training")
    return Origins(tuple(_with_files(sources, dataset)), dataset.sha256)


def _sources(recipe: Recipe) -> Iterator[Origin]:
    for source in sources_of(recipe):
        yield Origin(_name(source), source.hub is not None, source.revision, source.license, held_out=False)
    if isinstance(recipe.data.eval, Path):
        yield Origin(recipe.data.eval.name, False, None, None, held_out=True)


def _name(source: Source) -> str:
    assert source.hub or source.path
    return source.hub or source.path.name  # type: ignore[union-attr]


def _with_files(sources: Sequence[Origin], dataset: Dataset) -> Iterator[Origin]:
    learnt = [source for source in sources if not source.held_out]
    for source in sources:
        files = tuple(
            OriginFile(file.reading.file.name, atomic.sha256(file.reading.file), store.num_rows)
            for file, store in dataset.files
            if (file.held_out if source.held_out else not file.held_out and learnt[file.number] is source)
        )
        yield Origin(source.name, source.hub, source.revision, source.license, source.held_out, files)
