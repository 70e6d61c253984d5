"""A run: the folder, its lock, its checkpoints, its metrics and its chain of proofs. It knows nothing of models."""

from __future__ import annotations

from finetune import atomic
from finetune.run import checkpoint, manifest, metrics, outputs
from finetune.run.checkpoint import Newest
from finetune.run.folder import Run, anew, create, list_runs, open_run, resume
from finetune.run.lock import locked
from finetune.run.manifest import Claim, Entry, claim

__all__ = [
    "Claim",
    "Entry",
    "Newest",
    "Run",
    "anew",
    "atomic",
    "checkpoint",
    "claim",
    "create",
    "list_runs",
    "locked",
    "manifest",
    "metrics",
    "open_run",
    "outputs",
    "resume",
]
