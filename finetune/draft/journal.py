"""Keeps every reply of a teacher from the moment it came: one line each, on the disk before the next question.

The output is made of the journal, so a process that is killed at any instant loses no reply that was written here; what
was on its way is asked again. A last line that was torn by it is dropped.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from finetune import atomic
from finetune.completions import Reply
from finetune.errors import ArtifactError, RunLocked


@dataclass
class Journal:
    """The open file, and what stands in it."""

    path: Path
    descriptor: int
    replies: dict[str, Reply] = field(default_factory=dict)
    """By the identity of what was asked."""
    written: set[str] = field(default_factory=set)
    """Hashes of outputs that were made of it."""


@contextmanager
def opened(path: Path) -> Iterator[Journal]:
    """Holds the journal alone and reads it. It is locked itself, and never replaced or removed.

    Raises:
        ArtifactError: it cannot be written, or a line of it is no line of a journal.
        DoesNotFit: the disk is full.
        RunLocked: another process holds it.
    """
    fix = f"ls -ld {shlex.quote(str(path.parent))}"
    with atomic.refusal_told(path, fix), atomic.full_disk_told(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _held(path) from None
        atomic.fsync(path.parent)
        journal = Journal(path, descriptor)
        journal.replies, journal.written, whole_bytes = _read(path)
        if whole_bytes < os.fstat(descriptor).st_size:
            os.ftruncate(descriptor, whole_bytes)
        _append(journal, {"process": os.getpid(), "host": os.uname().nodename})
        yield journal
    finally:
        os.close(descriptor)


def answered(path: Path) -> dict[str, Reply]:
    """Reads the replies of a journal that somebody may be writing; none where there is no journal.

    Raises:
        ArtifactError: a line of it is no line of a journal.
    """
    return _read(path)[0] if path.is_file() else {}


def note_reply(journal: Journal, asked: str, reply: Reply) -> None:
    """Writes a reply down; it is on the disk when this returns.

    Raises:
        DoesNotFit: the disk is full.
    """
    _append(journal, {"asked": asked, **asdict(reply)})
    journal.replies[asked] = reply


def note_output(journal: Journal, sha256: str) -> None:
    """Writes down which output is about to be written, so that it is known as ours later.

    Raises:
        DoesNotFit: the disk is full.
    """
    if sha256 not in journal.written:
        _append(journal, {"output": sha256})
        journal.written.add(sha256)


def _append(journal: Journal, line: dict[str, Any]) -> None:
    rest = memoryview(json.dumps(line).encode() + b"\n")
    before = os.fstat(journal.descriptor).st_size
    with atomic.full_disk_told(journal.path):
        try:
            while rest:
                rest = rest[os.write(journal.descriptor, rest) :]
        except OSError:
            os.ftruncate(journal.descriptor, before)  # half a line would spoil the next one
            raise
        os.fsync(journal.descriptor)


def _read(path: Path) -> tuple[dict[str, Reply], set[str], int]:
    """Reads all lines: replies, hashes of outputs, and the bytes of whole lines; a last line that was torn is none."""
    replies: dict[str, Reply] = {}
    written: set[str] = set()
    whole_bytes = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                break
            try:
                told: dict[str, Any] = json.loads(line)
                if "asked" in told:
                    asked = told.pop("asked")
                    replies[asked] = Reply(**told)
                elif "output" in told:
                    written.add(told["output"])
                elif "process" not in told:
                    raise ValueError("no line of a journal")
            except (ValueError, TypeError) as error:  # no JSON, or not the fields of a reply
                raise _damaged(path, number, whole_bytes) from error
            whole_bytes += len(line)
    return replies, written, whole_bytes


def _damaged(path: Path, number: int, whole_bytes: int) -> ArtifactError:
    name, before = shlex.quote(str(path)), shlex.quote(f"{path}.damaged")
    fix = f"cp {name} {before} && truncate -s {whole_bytes} {name}   keeps the {number - 1} lines before"
    why = "only its last line can have been torn by an interruption"
    return ArtifactError("the journal is damaged", where=f"{path}:{number}", why=why, fix=fix)


def _held(path: Path) -> RunLocked:
    """The error, with the last process that opened the journal: the one that holds it."""
    holder: dict[str, Any] = {}
    for line in path.read_bytes().splitlines():
        try:
            told = json.loads(line)
        except ValueError:  # being written
            continue
        holder = told if "process" in told else holder
    why = f"process {holder['process']} on {holder['host']} holds {path.name}" if holder else "it began this moment"
    stop = f", or stop it on {holder['host']}: kill {holder['process']}" if holder else ""
    return RunLocked("another process drafts into this file", where=str(path), why=why, fix=f"wait until it ends{stop}")
