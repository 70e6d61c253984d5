"""Writes a job's file, and hands it to the engine's own command. What the engine says is shown as it says it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune import atomic
from finetune.errors import OutsideError, RecipeError

HOW_TO_GET = {
    "sbatch": "run this where Slurm is, on the cluster's login node: {again}",
    "kubectl": "install it: https://kubernetes.io/docs/tasks/tools/   then: {again}",
    "sky": "pip install 'skypilot[kubernetes]'   # or [aws], [gcp], …; then: {again}",
    "deepspeed": "pip install deepspeed",
    "pdsh": "apt-get install pdsh",
}
"""The engine's command -> where it comes from."""


def write_new(path: Path, text: str) -> None:
    """Writes a job's file, unless another text stands there already.

    Raises:
        RecipeError: another file would be overwritten.
        ArtifactError: nothing can be written there.
        DoesNotFit: the disk or the quota is full.
    """
    fix = "--out another-file"
    with atomic.refusal_told(path, fix):
        if os.path.isdir(path):
            raise RecipeError("this is a folder", where=f"--out {path}", fix=fix)
        if path.is_file():
            if path.read_bytes() == text.encode():
                return
            why = "it holds something else, perhaps a file that you edited"
            again = f"rm {shlex.quote(str(path))}   # or {fix}"
            raise RecipeError("this would overwrite a file", where=str(path), why=why, fix=again)
        atomic.write_text(path, text)


def find_tool(tool: str, again: str) -> str:
    """Finds an engine's command on PATH.

    Raises:
        OutsideError: it is not installed here.
    """
    found = shutil.which(tool)
    if found is None:
        raise OutsideError(
            f"{tool} is not installed here",
            where="PATH",
            why=f"`{again}` needs it",
            fix=HOW_TO_GET[tool].format(again=again),
        )
    return found


def hand_over(words: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Runs an engine's command to its end, its words given as they are and read by no shell.

    Raises:
        OutsideError: it is not installed here, or it ended with another exit code than 0.
    """
    again = shlex.join(words)
    find_tool(words[0], again)
    code = subprocess.call(words, env=environment)
    if code:
        ended = f"exit code {code}" if code > 0 else f"signal {-code}"
        raise OutsideError(f"{words[0]} did not do it", where=again, why=f"it ended with {ended}", fix=again)
