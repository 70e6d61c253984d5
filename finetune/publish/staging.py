"""The folder of one repository as it will be, laid out beside the run before anything is sent; weights are linked."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.card import benchmark_results, make_card
from finetune.errors import ArtifactError
from finetune.provenance import Facts, bill_of_materials, public_recipe, sign
from finetune.publish.artifacts import Artifact
from finetune.publish.public import items_of, manifest_of, told_to_others
from finetune.run import Run, atomic

LFS_BYTES = 10 * 2**20
"""From here on a file is kept as LFS whatever it is called. Source: hub docs, "Repositories", Getting started."""

LFS_SUFFIXES = (".safetensors", ".gguf", ".png", ".parquet")
"""What the Hub keeps so by its name; which it is the server decides, this is for a dry run."""

JSON_BESIDE = ("eval/evaluation.json", "ledger.json", "bom.json")
BESIDE = (*JSON_BESIDE, "report.html", "ledger.png", "loss.png")
"""Files of a run that go up with every form of its model, where they are there."""

WEIGHTS = (".safetensors", ".gguf")

WITH_EXAMPLES = ("eval/items.jsonl",)

CONFIG = "adapter_config.json"

OF_BASE = ("LICENSE*", "NOTICE*")
"""Files of a base that go wherever what is made of it goes."""

NOT_LINKED = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP)
"""How a file system says that it links no files."""


@dataclass(frozen=True)
class File:
    """A file as it goes up."""

    name: str
    """In the repository."""
    path: Path
    """In the staged folder."""
    shown: str
    """Where it comes from, for the user."""
    num_bytes: int
    sha256: str
    of_base: bool
    """Whether it is the base's, byte for byte."""

    @property
    def lfs(self) -> bool:
        """Whether the Hub probably keeps it as LFS."""
        return self.num_bytes > LFS_BYTES or self.path.suffix in LFS_SUFFIXES


@dataclass(frozen=True)
class Staged:
    """A repository as it will be."""

    artifact: Artifact
    folder: Path
    files: tuple[File, ...]

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(file.num_bytes for file in self.files)


def stage(
    facts: Facts,
    artifact: Artifact,
    base: Path | None,
    place: Path,
    with_examples: bool,
    key: Path | None,
    forced: str = "",
) -> Staged:
    """Lays out the folder of a repository.

    Args:
        facts: of the run.
        artifact: what goes up.
        base: the base's folder, where it is on the disk.
        place: under which the folder is made.
        with_examples: whether files that show rows go up too.
        key: a private key to sign with, if any.
        forced: why it is published although something speaks against it.

    Raises:
        DoesNotFit: the disk is full.
        OutsideError: it is to be signed, and the extra for that is not installed.
        RecipeError: the key is none.
    """
    folder, run = place / artifact.kind, facts.run
    with atomic.full_disk_told(folder):
        folder.mkdir(parents=True)
        sources = dict(artifact.files)
        for name in (*BESIDE, *(WITH_EXAMPLES if with_examples else ())):
            if (run.path / name).is_file() and name not in sources:
                sources[name] = run.path / name
        for file in (
            (found for pattern in OF_BASE for found in sorted(base.glob(pattern)) if found.is_file()) if base else ()
        ):
            sources.setdefault(file.name, file)
        for name, file in sources.items():
            _lay(file, folder / name)
        texts = _texts(facts, artifact, sources, forced)
        for name, text in texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            atomic.write_text(folder / name, text)  # which replaces a link, and never writes through it
    if key is not None:
        sign(folder, key)
    unchanged = {name: file for name, file in sources.items() if name not in texts}
    return Staged(artifact, folder, tuple(_files(run, artifact, folder, unchanged, base)))


def _texts(facts: Facts, artifact: Artifact, sources: dict[str, Path], forced: str) -> dict[str, str]:
    """Writes what is told of the run, as others may read it: name in the repository -> text."""
    run, evaluated = facts.run, facts.run.named(facts.run.evaluation)
    made_of = artifact.chain[0] if artifact.kind == "gguf" and artifact.chain else None
    return {
        **{name: _as_json(name, told_to_others(run, sources[name])) for name in sources if name in JSON_BESIDE},
        **{name: items_of(run, sources[name]) for name in sources if name in WITH_EXAMPLES},
        **({evaluated: _as_json(evaluated, facts.evaluation)} if facts.evaluation else {}),
        **({CONFIG: _config(artifact)} if CONFIG in artifact.files and artifact.chain else {}),
        "manifest.json": _as_json("manifest.json", manifest_of(run, facts.told, forced)),
        "recipe.yaml": public_recipe(run),
        "README.md": make_card(facts, artifact.kind, artifact.repo, made_of),
        "bom.json": _as_json("bom.json", bill_of_materials(facts, artifact.kind, artifact.repo)),
        **benchmark_results(facts, artifact.kind),
    }


def _files(run: Run, artifact: Artifact, folder: Path, sources: dict[str, Path], base: Path | None) -> Iterator[File]:
    for entry in atomic.entries(folder):
        if entry.is_dir(follow_symlinks=False):
            continue
        path = Path(entry.path)
        name = path.relative_to(folder).as_posix()
        source = sources.get(name)
        proven = artifact.proven.get(run.named(source)) if source and name in artifact.files else None  # hashed before
        of_base = base is not None and path.suffix not in WEIGHTS and _same(base / name, path)
        shown = str(source) if source else f"{artifact.repo}/{name}"
        yield File(name, path, shown, path.stat().st_size, proven or atomic.sha256(path), of_base)


def _config(artifact: Artifact) -> str:
    """Writes an adapter's config with the base's id, where training wrote the folder that the base lay in."""
    text = artifact.files[CONFIG].read_text()
    told = json.loads(text)
    if told["base_model_name_or_path"] == artifact.chain[0]:
        return text
    return json.dumps(told | {"base_model_name_or_path": artifact.chain[0]}, indent=2, sort_keys=True) + "\n"


def _as_json(name: str, told: Any) -> str:
    """Writes JSON that every reader accepts.

    Raises:
        ArtifactError: there is a figure in it that is none.
    """
    try:
        return json.dumps(told, indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        why, fix = (
            "it holds NaN or infinity, which no reader of JSON knows",
            "make it again by the command of its stage",
        )
        raise ArtifactError("a file of the run is damaged", where=name, why=why, fix=fix) from error


def git_sha1(path: Path) -> str:
    """Gives the name that git has for a file's bytes."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as opened:
        while piece := opened.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and one.stat().st_size == other.stat().st_size and atomic.sha256(one) == atomic.sha256(other)


def _lay(file: Path, place: Path) -> None:
    """Links a file, or copies it where that cannot be."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not file.is_symlink():
        try:
            os.link(file, place)
            return
        except OSError as error:
            if error.errno not in NOT_LINKED:
                raise
    shutil.copyfile(file, place)
