"""A checkpoint either proves itself, file by file, or is not resumed from.

Training that goes on from half a checkpoint mostly does so in silence: a missing optimizer or one flipped bit
raises nothing. So a checkpoint carries the size and hash of each of its files, written last, and only one that
verifies is taken. A damaged one is moved aside, never deleted. All of this is for the holder of the run's lock.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune import atomic
from finetune.run.folder import resume

PROOF = "checkpoint.json"
"""{"step": int, "files": {relative name: {"sha256": hex, "bytes": int}}}, of every file but itself."""

NAMED = re.compile(r"checkpoint-(0|[1-9][0-9]*)")
STAGING = ".staging-"
QUARANTINE = ".quarantine"


@dataclass(frozen=True)
class Newest:
    """From where to go on."""

    path: Path | None
    """The newest checkpoint that verifies; None to begin anew."""
    step: int
    """Optimizer steps done in it; 0 where there is none."""
    refused: tuple[tuple[str, str], ...] = ()
    """Newer ones that did not verify, each with the reason; they lie in quarantine now."""


def save(checkpoints: Path, step: int, write: Callable[[Path], None]) -> Path:
    """Saves a checkpoint, whole or not at all.

    A checkpoint of that step that verifies is kept as it is, and nothing is written.

    Args:
        checkpoints: the folder of checkpoints; made if it is missing.
        step: optimizer steps done.
        write: fills the folder it is given; if it raises, the folder is removed.

    Raises:
        ArtifactError: `write` put a link or a device into the folder.
        DoesNotFit: the disk or the quota is full; earlier checkpoints are untouched.
    """
    _make_folder(checkpoints)
    final = checkpoints / f"checkpoint-{step}"
    if os.path.lexists(final):
        if verify(final) is None:
            return final
        _quarantine(final)
    staging = checkpoints / f"{STAGING}{step}-{os.getpid()}"
    _remove(staging)  # an earlier process of the same number may have died here
    try:
        with atomic.full_disk_told(staging, _bytes_of_another(checkpoints), resume(checkpoints.parent)):
            staging.mkdir()
            write(staging)
            atomic.write_json(staging / PROOF, {"step": step, "files": _prove(staging)})
            atomic.publish(staging, final)
    finally:
        _remove(staging)
    return final


def verify(path: Path) -> str | None:
    """Why a checkpoint must not be resumed from, in words that name the file; None if it is good."""
    named = NAMED.fullmatch(path.name)
    if named is None:
        return f"{path.name} is not a checkpoint's name"
    if path.is_symlink() or not path.is_dir():
        return f"{path.name} is not a folder"
    try:
        return _compare(path, int(named[1]))
    except OSError as error:
        return f"{error.filename or path.name} cannot be read: {error.strerror}"


def newest_verified(checkpoints: Path) -> Newest:
    """Finds the newest checkpoint that verifies; moves damaged ones met on the way to quarantine.

    Folders that a killed process was still filling or removing are deleted.

    Raises:
        DoesNotFit: the disk is so full that a damaged checkpoint cannot even be moved.
    """
    if not checkpoints.is_dir():
        return Newest(path=None, step=0)
    for name in os.listdir(checkpoints):
        if name.startswith(STAGING):
            _remove(checkpoints / name)
    refused: list[tuple[str, str]] = []
    for step in reversed(_steps(checkpoints)):
        path = checkpoints / f"checkpoint-{step}"
        reason = verify(path)
        if reason is None:
            return Newest(path, step, tuple(refused))
        refused.append((path.name, reason))
        _quarantine(path)
    return Newest(path=None, step=0, refused=tuple(refused))


def prune(checkpoints: Path, keep: int) -> None:
    """Removes the oldest checkpoints, so that `keep` remain. It goes by their names and reads nothing.

    Raises:
        DoesNotFit: the disk is so full that a folder cannot be renamed.
    """
    assert keep >= 1, "the last checkpoint is never pruned"
    for step in _steps(checkpoints)[:-keep]:
        doomed = checkpoints / f"{STAGING}{step}-pruned"
        _remove(doomed)
        with atomic.full_disk_told(doomed):
            os.rename(checkpoints / f"checkpoint-{step}", doomed)
            atomic.fsync(checkpoints)  # else a power cut could leave the good name on a half empty folder
        _remove(doomed)


def _steps(checkpoints: Path) -> list[int]:
    """The steps that have a checkpoint by name, oldest first."""
    matches = (NAMED.fullmatch(name) for name in os.listdir(checkpoints))
    return sorted(int(match[1]) for match in matches if match)


def _prove(folder: Path) -> dict[str, dict[str, str | int]]:
    """Size and hash of each file."""
    files = [Path(entry.path) for entry in atomic.entries(folder) if entry.is_file(follow_symlinks=False)]
    assert files, "a checkpoint without a file"
    return {
        file.relative_to(folder).as_posix(): {"sha256": atomic.sha256(file), "bytes": file.stat().st_size}
        for file in files
    }


def _compare(folder: Path, step: int) -> str | None:
    """What differs between a checkpoint's files and its proof."""
    try:
        proof = json.loads((folder / PROOF).read_bytes())
    except FileNotFoundError:
        return f"{PROOF} is missing"
    except (ValueError, RecursionError):
        return f"{PROOF} is not JSON"
    if not _is_proof(proof):
        return f"{PROOF} does not tell a step and the sizes and hashes of files"
    if proof["step"] != step:
        return f"{PROOF} is of step {proof['step']}, the folder's name says {step}"
    present = {}
    for entry in atomic.entries(folder):
        name = Path(entry.path).relative_to(folder).as_posix()
        if not atomic.is_plain(entry):
            return f"{name} is neither a file nor a folder"
        if entry.is_file(follow_symlinks=False) and name != PROOF:
            present[name] = Path(entry.path)
    return _compare_files(present, proof["files"])


def _compare_files(present: dict[str, Path], proven: dict[str, dict[str, Any]]) -> str | None:
    """The first of the files that is missing, extra, of another size or of another content."""
    for name in sorted(proven.keys() - present.keys()):
        return f"{name} is missing"
    for name in sorted(present.keys() - proven.keys()):
        return f"{name} is not in {PROOF}"
    for name, path in present.items():
        num_bytes = path.stat().st_size
        if num_bytes != proven[name]["bytes"]:
            return f"{name} has {num_bytes:,} bytes, {proven[name]['bytes']:,} were saved"
    for name, path in present.items():
        if atomic.sha256(path) != proven[name]["sha256"]:
            return f"{name} is not what was saved: its sha256 differs"
    return None


def _is_proof(value: Any) -> bool:
    """Whether the JSON has exactly the form that `save` writes. True is no step."""
    return (
        isinstance(value, dict)
        and value.keys() == {"step", "files"}
        and type(value["step"]) is int
        and isinstance(value["files"], dict)
        and len(value["files"]) > 0
        and all(_is_file_proof(file) for file in value["files"].values())
    )


def _is_file_proof(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"sha256", "bytes"}
        and isinstance(value["sha256"], str)
        and type(value["bytes"]) is int
    )


def _bytes_of_another(checkpoints: Path) -> int | None:
    """What the newest checkpoint takes: the next one takes about the same."""
    steps = _steps(checkpoints)
    return atomic.taken_bytes(checkpoints / f"checkpoint-{steps[-1]}") if steps else None


def _quarantine(path: Path) -> None:
    """Moves a damaged checkpoint aside, under its name or that with a number."""
    quarantine = path.parent / QUARANTINE
    _make_folder(quarantine)
    target, number = quarantine / path.name, 1
    while os.path.lexists(target):
        number += 1
        target = quarantine / f"{path.name}-{number}"
    with atomic.full_disk_told(target):
        os.rename(path, target)
        atomic.fsync(quarantine)
        atomic.fsync(path.parent)


def _make_folder(path: Path) -> None:
    """Makes a folder that outlasts a power cut, if it is not there."""
    if not path.is_dir():
        with atomic.full_disk_told(path):
            path.mkdir()
            atomic.fsync(path.parent)


def _remove(path: Path) -> None:
    """Removes a folder of ours, if it is there."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
