"""Writes that are whole or absent, whether the process is killed, the disk is full or the power fails.

The order is always the same: fsync what is new, rename it into place, fsync the folder that holds the name.
Without the first fsync a power cut leaves a good name on an empty file; without the last the name itself may be
lost.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune.errors import ArtifactError, DoesNotFit, FinetuneError

FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
"""The two ways in which a file system says that it has no room."""

UNUSABLE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EEXIST, errno.EISDIR),
}
"""How a file system says that a place takes nothing from us."""

PROBE_BYTES = 2**20
"""What a disk must still take for us to believe that a writer failed for another reason."""


def write_text(path: Path, text: str) -> None:
    """Writes a file whole: a reader sees the old text or the new one, never a part.

    Raises:
        DoesNotFit: the disk or the quota is full; the old text is untouched.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes the bytes of a file whole, as `write_text` does.

    Raises:
        DoesNotFit: the disk or the quota is full; the old bytes are untouched.
    """
    staging = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}")
    with full_disk_told(path, needed_bytes=len(data)):
        try:
            _write_new(staging, data)
            os.replace(staging, path)
            fsync(path.parent)
        finally:
            staging.unlink(missing_ok=True)  # nothing is left to remove once it was renamed


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON that every reader accepts: a NaN is refused, since JSON has none.

    Raises:
        DoesNotFit: the disk or the quota is full; the old file is untouched.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def publish(staging: Path, final: Path) -> None:
    """Gives a finished folder its name, once every byte of it is on the disk.

    An existing `final` that holds files is never replaced: `os.rename` refuses it with ENOTEMPTY.

    Raises:
        ArtifactError: the folder holds a link or a device, whose bytes would lie elsewhere.
        DoesNotFit: the disk turned out to be full when the bytes were flushed.
    """
    with full_disk_told(staging):
        for entry in entries(staging):
            if not is_plain(entry):
                raise ArtifactError(
                    f"{entry.name} is neither a file nor a folder",
                    where=str(staging),
                    why="what is published holds its own bytes: no links, no devices",
                    fix="put the file itself in its place",
                )
            fsync(Path(entry.path))
        fsync(staging)
        os.rename(staging, final)
        fsync(final.parent)


def sha256(path: Path) -> str:
    """The hash of a file's bytes, as hex, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, are on the disk; a folder may be reached by a link."""
    descriptor = os.open(path, os.O_RDONLY | (os.O_DIRECTORY if path.is_dir() else os.O_NOFOLLOW))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Everything under a folder, sorted within each level; links are yielded, never followed."""
    with os.scandir(folder) as unsorted:
        level = sorted(unsorted, key=lambda entry: entry.name)
    for entry in level:
        yield entry
        if entry.is_dir(follow_symlinks=False):
            yield from entries(Path(entry.path))


def is_plain(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file or a folder itself, not a link, a pipe or a device."""
    return entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)


def taken_bytes(path: Path) -> int:
    """Bytes that a file, or all files under a folder, hold; 0 where there is nothing."""
    if path.is_dir():
        return sum(entry.stat(follow_symlinks=False).st_size for entry in entries(path))
    return path.lstat().st_size if os.path.lexists(path) else 0


@contextmanager
def full_disk_told(
    path: Path, needed_bytes: int | None = None, then: str = "give the same command again"
) -> Iterator[None]:
    """Tells a full disk as what it is, whoever met it while writing `path`.

    Libraries rename the error or lose its number (torch raises `RuntimeError: unexpected pos`, safetensors an
    error of its own), so after a foreign error the disk itself is asked, before anything is cleaned up.

    Args:
        path: what is written.
        needed_bytes: of it, where known.
        then: what to do once there is room.

    Raises:
        DoesNotFit: the disk or the quota was full; it tells the bytes needed, where known, and the bytes free.
    """
    before_bytes = taken_bytes(path)
    try:
        yield
    except BaseException as error:
        number = _number_of_full_disk(error, path)
        if number is None:
            raise
        written_bytes = taken_bytes(path) - before_bytes
        raise _does_not_fit(FULL[number], path, needed_bytes, written_bytes, then) from error


@contextmanager
def refusal_told(path: Path, fix: str) -> Iterator[None]:
    """Tells a place that takes no files as what it is, to whoever begins to write at `path`.

    Raises:
        ArtifactError: nothing can be written there.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in UNUSABLE:
            raise
        why = os.strerror(error.errno)
        raise ArtifactError("this cannot be written", where=str(path), why=why, fix=fix) from error


def _number_of_full_disk(error: BaseException, path: Path) -> int | None:
    """ENOSPC or EDQUOT, if one of them stopped the writer, however it said so."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in FULL else None
    if isinstance(error, FinetuneError) or not isinstance(error, Exception):
        return None  # told already, or a signal
    for number in FULL:
        if os.strerror(number) in str(error):
            return number
    probe = path.parent / f".probe-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        _write_new(probe, bytes(PROBE_BYTES))
    except OSError as refusal:
        return refusal.errno if refusal.errno in FULL else None
    finally:
        probe.unlink(missing_ok=True)
    return None


def _does_not_fit(what: str, path: Path, needed_bytes: int | None, written_bytes: int, then: str) -> DoesNotFit:
    """Counts what the failed write itself had taken as free, for it is given back."""
    folder = next(parent for parent in path.parents if parent.is_dir())
    free_bytes = shutil.disk_usage(folder).free + written_bytes
    missing_bytes = max((needed_bytes or 0) - free_bytes, 0)
    needed = f"needs {needed_bytes:,} bytes, " if needed_bytes is not None else ""
    amount = f"{missing_bytes:,} bytes or more" if missing_bytes else "some space"
    return DoesNotFit(
        what,
        where=str(path.parent if path.name.startswith(".") else path),  # no staging name for the user
        why=f"{needed}{free_bytes:,} bytes were free",
        fix=f"free {amount} on the disk of {folder}, then {then}",
    )


def _write_new(path: Path, data: bytes) -> None:
    """Writes and flushes a file that must not exist yet."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
