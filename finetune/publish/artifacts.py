"""What of a run is published: which forms of its model are there, where each goes, which hash each file must have."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import ArtifactError
from finetune.provenance import Artifact as Kind
from finetune.provenance import repo_of
from finetune.run import Run, atomic, outputs

KINDS: tuple[Kind, ...] = ("adapter", "merged", "gguf")
"""In the order in which they are published: each is made of the one before."""

MAKING: dict[Kind, tuple[str, ...]] = {"adapter": ("train", "--resume"), "merged": ("merge",), "gguf": ("export",)}
"""What makes each: the verb, and what stands before the run."""


@dataclass(frozen=True)
class Artifact:
    """One form of a run's model."""

    kind: Kind
    repo: str
    """As owner/name."""
    chain: tuple[str, ...]
    """Of what it was made, as ids of the Hub, the nearest first; empty where the base has none."""
    files: dict[str, Path]
    """Name in the repository -> file of the run; links and what nobody proved among them."""
    proven: dict[str, str]
    """Name in the manifest -> sha256, of those files that a stage of the run proved."""


def find(
    run: Run, method: str, told: dict[str, Any], wanted: Collection[Kind], repo: str, base: str | None
) -> list[Artifact]:
    """Finds the forms of a run's model that are to be published.

    Args:
        run: that finished.
        method: by which it trained; of `full` there is no adapter.
        told: its manifest.
        wanted: which ones; all that are there if none is named.
        repo: of the merged model, as owner/name.
        base: id of the base at the Hub, if it has one.

    Raises:
        ArtifactError: one that is named is not there, or none is.
    """
    kinds = KINDS[1:] if method == "full" else KINDS
    if "adapter" in wanted:
        outputs.need_adapter(run, method, "--merged   # or --gguf, or neither for all that are there")
    found = {kind: files for kind in kinds if (files := _files(folder(run, kind)))}
    for kind in wanted or (() if found else kinds[:1]):
        if kind not in found:
            fix = making(run, kind)
            raise ArtifactError(
                f"the run has no {kind}", where=str(folder(run, kind)), why="there is nothing to publish", fix=fix
            )
    chosen = [kind for kind in KINDS if kind in (wanted or found)]
    made = outputs.made_by(told)
    artifacts = []
    for kind in chosen:
        chain = [base] if base else []
        if kind == "gguf" and ("merged" in chosen or _published(told, repo_of(repo, "merged"))):
            chain.insert(0, repo_of(repo, "merged"))
        files = found[kind]
        proven = {name: made[name][0] for file in files.values() if (name := run.named(file)) in made}
        artifacts.append(Artifact(kind, repo_of(repo, kind), tuple(chain), files, proven))
    return artifacts


def making(run: Run, kind: Kind) -> str:
    """Gives the command that makes a form of the model."""
    verb, *before = MAKING[kind]
    return shlex.join(["finetune", verb, *before, str(run.path)])


def folder(run: Run, kind: Kind) -> Path:
    """Says where a form of the model lies."""
    return {"adapter": run.adapter, "merged": run.merged, "gguf": run.path / "gguf"}[kind]


def _files(place: Path) -> dict[str, Path]:
    """Lists everything in a folder but folders, by its path within."""
    if not place.is_dir() or place.is_symlink():
        return {}
    found = {}
    for entry in atomic.entries(place):
        if not entry.is_dir(follow_symlinks=False):
            found[Path(entry.path).relative_to(place).as_posix()] = Path(entry.path)
    return found


def _published(told: dict[str, Any], repo: str) -> bool:
    return outputs.last(told, "publish", repo=repo) is not None
