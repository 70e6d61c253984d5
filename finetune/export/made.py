"""The files that an export makes: their names, their places, and what was written down of them for others."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from finetune import host
from finetune.errors import ArtifactError, DoesNotFit
from finetune.ggufs import gguf_name
from finetune.run import Run, atomic, manifest, outputs


def gguf_file(run: Run, folder: Path, kind: str) -> Path:
    """Names the file of a kind."""
    return folder / gguf_name(run.name, kind)


def make_room(folder: Path, run: Run, needed: int) -> None:
    """Makes the folder, takes away what a kill of this very run left there, and compares the bytes with the disk.

    Raises:
        DoesNotFit: it has too little room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_making(run)}*"):
        shutil.rmtree(left)
    if (free := host.disk_free_bytes(folder)) < needed:
        raise DoesNotFit(
            "the disk has too little room for the GGUF files",
            where=str(folder),
            why=f"up to {needed:,} bytes are to be written, {free:,} are free",
            fix=f"free {needed - free:,} bytes, or name a folder on a larger disk by --out",
        )


@contextmanager
def making_room(folder: Path, run: Run) -> Iterator[Path]:
    """Gives a folder within the folder, in which files are made until they are proven."""
    with TemporaryDirectory(prefix=_making(run), dir=folder) as making:
        yield Path(making)


def _making(run: Run) -> str:
    """Begins the name of such a folder: by where the run lies, for others of its name may work there meanwhile."""
    return f".making-{hashlib.sha256(os.fsencode(run.path.resolve())).hexdigest()[:16]}-"


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
    digest, stage = outputs.made_by(manifest.read(run.manifest)).get(run.named(file), ("", ""))
    if stage == "export":
        return digest
    raise ArtifactError("no export of this run made the file", where=str(file), fix=outputs.command("export", run))
