"""The files that an export makes: their names, and what it wrote down of them for those who hand them on."""

from __future__ import annotations

from pathlib import Path

from finetune.errors import ArtifactError
from finetune.run import Run, manifest


def gguf_file(run: Run, folder: Path, kind: str) -> Path:
    """Names the file of a kind."""
    return folder / f"{run.name}-{kind.upper()}.gguf"


def sha256_made(run: Run, file: Path) -> str:
    """Gives the hash of a file as the newest export that made it wrote it down.

    Raises:
        ArtifactError: no export of the run made it.
    """
    for stage in reversed(manifest.read(run.manifest)["stages"]):
        if stage["stage"] == "export" and run.named(file) in stage["outputs"]:
            return str(stage["outputs"][run.named(file)])
    raise ArtifactError("no export of this run made the file", where=str(file), fix=f"finetune export {run.path}")
