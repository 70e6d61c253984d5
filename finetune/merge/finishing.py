"""How a merge ends: a proven folder gets its name, the manifest its entry; given again, both are verified."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune.errors import ArtifactError
from finetune.merge.journal import Journal
from finetune.run import Entry, Run, atomic, manifest

ASKED = ("onto", "adapters", "method", "density", "seed")
"""The inputs of an entry that tell one merge of a run from another."""


def finished(
    run: Run, stage: str, asked: dict[str, Any], journal: Journal, say: Callable[[str], None]
) -> dict[str, Any] | None:
    """Gives the entry of a merge that is over, its files verified; one that was killed at the very end is ended here.

    Args:
        run: of it.
        stage: as the manifest calls it.
        asked: what the entry's inputs must say of it.
        journal: of the folder that is to be made.
        say: takes a line for the user.

    Raises:
        ArtifactError: there is something else in the place of the folder.
    """
    out = journal.out
    if not os.path.lexists(out):
        return None
    entries = list(manifest.read(run.manifest)["stages"])
    if os.path.lexists(journal.folder) and journal.read()["run"] == str(run.path.resolve()) and journal.entry:
        entries.append(journal.entry)
    for entry in reversed(entries):
        same = entry["stage"] == stage and all(entry["inputs"].get(key) == asked.get(key) for key in ASKED)
        if same and _is_whole(run, out, entry["outputs"]):
            if entry is journal.entry:
                return publish(run, journal)
            say("the merge is finished, and its files are those that were proven")
            return dict(entry)
    fix = "name another folder by --out"
    ours = [name for entry in entries if entry["stage"] == stage for name in entry["outputs"]]
    if any((run.path / name).parent.absolute() == out.absolute() for name in ours):
        fix = f"mv {shlex.quote(str(out))} {shlex.quote(f'{out}-before')}   # or {fix}"
    raise ArtifactError("there is something in this place", where=str(out), fix=fix)


def check_name(out: Path) -> None:
    """Makes sure that a folder is named that can be made.

    Raises:
        ArtifactError: it has no name of its own.
    """
    if out.name in ("", ".."):
        raise ArtifactError("this names no new folder", where=f"--out {out}", fix="--out merged")


def publish(run: Run, journal: Journal) -> dict[str, Any]:
    """Gives the proven folder its name and adds the stage to the manifest, in an order that a kill cannot harm."""
    entry = journal.entry
    assert entry is not None, "what is not proven gets no name"
    if not os.path.lexists(journal.out):
        for file in journal.model.iterdir():
            shutil.copymode(run.recipe, file)
        atomic.publish(journal.model, journal.out)
    if entry not in manifest.read(run.manifest)["stages"]:
        manifest.add(run.manifest, Entry(**entry))
    journal.close()
    return entry


def _is_whole(run: Run, out: Path, outputs: dict[str, str]) -> bool:
    """Tells whether a folder holds what an entry says that it made there, and nothing besides."""
    files = {run.named(file): file for file in out.iterdir()} if out.is_dir() else {}
    return files.keys() == outputs.keys() and all(atomic.sha256(f) == outputs[name] for name, f in files.items())
