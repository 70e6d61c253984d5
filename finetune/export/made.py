"""The files that an export makes: their names, their places, and what was written down of them for others."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from finetune import host
from finetune.errors import ArtifactError, DoesNotFit
from finetune.run import Run, atomic, manifest


def gguf_file(run: Run, folder: Path, kind: str) -> Path:
    """Names the file of a kind."""
    return folder / f"{run.name}-{kind.upper()}.gguf"


def make_room(folder: Path, run: Run, needed: int) -> None:
    """Makes the folder, takes away what a kill left there, and compares the bytes to be written with the disk.

    Raises:
        DoesNotFit: it has too little room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f".making-{run.name}-*"):
        shutil.rmtree(left)
    if (free := host.disk_free_bytes(folder)) < needed:
        raise DoesNotFit(
            "the disk has too little room for the GGUF files",
            where=str(folder),
            why=f"up to {needed:,} bytes are to be written, {free:,} are free",
            fix=f"free {needed - free:,} bytes, or name a folder on a larger disk by --out",
        )


def keep(made: Path, file: Path) -> Path:
    """Gives a proven file its name, whatever was there before."""
    atomic.fsync(made)
    os.replace(made, file)
    atomic.fsync(file.parent)
    return file


def sha256_made(run: Run, file: Path) -> str:
    """Gives the hash of a file as the newest export that made it wrote it down.

    Raises:
        ArtifactError: no export of the run made it.
    """
    for stage in reversed(manifest.read(run.manifest)["stages"]):
        if stage["stage"] == "export" and run.named(file) in stage["outputs"]:
            return str(stage["outputs"][run.named(file)])
    raise ArtifactError("no export of this run made the file", where=str(file), fix=f"finetune export {run.path}")
