"""Fake programs for the tests of `finetune launch`: real files on PATH, which write down how they were called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

RECIPE = "base: Qwen/Qwen3.6-27B\ndata:\n  train: train.jsonl\ntrain:\n  batch_size: 16\n"

WRITES_DOWN = 'printf "%s\\0" "$0" "$@" >> "$CALLS"; printf "\\n" >> "$CALLS"\n'
"""One call is a line; its words end with NUL, for they hold everything else."""

SRUN = r"""
while [[ "$1" == --* ]]; do shift; done
for node in 0 1; do SLURM_NODEID=$node "$@" || code=$?; done
exit "${code:-0}"
"""
"""Runs its command on both nodes, one after the other."""


def fake(folder: Path, name: str, body: str = "") -> None:
    """Puts a program on the PATH that `environment` makes."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/usr/bin/env bash\n{WRITES_DOWN}{body}\n")
    (folder / name).chmod(0o755)


def environment(folder: Path) -> dict[str, str]:
    """The variables of a job: the fakes first on PATH, then this environment's own programs."""
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    slurm = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "n[1-2]"}
    return {**os.environ, **slurm, "PATH": path, "CALLS": str(folder / "calls"), "PYTHONPATH": str(ROOT)}


def calls(folder: Path) -> list[tuple[str, ...]]:
    """What was called, in order, each with its words; the program by its name."""
    lines = (folder / "calls").read_text().split("\0\n")[:-1] if (folder / "calls").exists() else []
    return [(Path(first).name, *rest) for first, *rest in (line.split("\0") for line in lines)]


def finetune(*words: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Calls the command as a user does, with fakes on PATH if a folder of them is given."""
    variables = environment(path) if path else {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "finetune", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=variables)
