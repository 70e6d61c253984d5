"""What the stages of a run left on the disk, and whether it is still what was proven."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from typing import Any

from finetune import atomic
from finetune.errors import ArtifactError, Problem
from finetune.run.folder import Run

STANDS = "its hash stands in the manifest"

LEARNT = ("adapter", "weights")
"""Folders of a run that hold what it learnt, of which it has one; the ledger calls its line so too."""


def made_by(told: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Gives of each file, by the name that the manifest gives it, its sha256 and the stage that made it last.

    What a stage made in a server, named by its address, is no file.

    Args:
        told: the manifest.
    """
    made = [(name, digest, stage["stage"]) for stage in told["stages"] for name, digest in stage["outputs"].items()]
    return {name: (digest, stage) for name, digest, stage in made if "://" not in name}


def last(told: dict[str, Any], stage: str, **inputs: str | None) -> dict[str, Any] | None:
    """Gives the newest entry of a stage with these inputs, or None; an input that is None is one that it must lack."""
    entries = [entry for entry in told["stages"] if entry["stage"] == stage]
    fitting = [entry for entry in entries if all(entry["inputs"].get(key) == inputs[key] for key in inputs)]
    return fitting[-1] if fitting else None


def check(run: Run, files: dict[str, str], fix: str) -> None:
    """Compares files with the hashes that stand in the manifest.

    Args:
        run: whose files they are.
        files: name in the manifest -> sha256.
        fix: what makes them again.

    Raises:
        ArtifactError: one is gone, or another one now.
    """
    if problems := list(_problems(run, files.items(), fix)):
        raise ArtifactError.of(problems)


def _problems(run: Run, files: Iterable[tuple[str, str]], fix: str) -> Iterator[Problem]:
    for name, digest in files:
        file = run.path / name
        if not file.is_file():
            yield Problem(f"{name} is gone", str(file), STANDS, fix)
        elif atomic.sha256(file) != digest:
            yield Problem(f"{name} is not the one that was proven", str(file), STANDS, fix)


def need_adapter(run: Run, method: str, fix: str) -> None:
    """Makes sure that a run has an adapter, for whom nothing else will do.

    Args:
        run: the run.
        method: by which it trained.
        fix: what is to be had without one.

    Raises:
        ArtifactError: it trained every weight.
    """
    if method == "full":
        why = "method full trained every weight itself, and nothing beside them"
        raise ArtifactError("this run has no adapter", where=str(run.weights), why=why, fix=fix)


def command(verb: str, run: Run, *words: str) -> str:
    """Spells a command of ours about a run."""
    return shlex.join(["finetune", verb, str(run.path), *words])
