"""One process works in a run folder at a time. The kernel keeps the lock: a killed holder leaves none behind."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from finetune import atomic
from finetune.errors import RunLocked
from finetune.run.folder import Run


@contextmanager
def locked(run: Run) -> Iterator[None]:
    """Holds the run's lock; its file names the holder and stays, for removing it would let two in.

    Raises:
        ArtifactError: the file of the lock cannot be written, or is a folder.
        DoesNotFit: the disk or the quota is full.
        RunLocked: another process holds the lock.
    """
    with atomic.refusal_told(run.lock, f"ls -ld {run.lock}   tells whose it is"), atomic.full_disk_told(run.lock):
        held = [os.open(run.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)]
    # A forked child, such as a data loader's worker, shares the lock and could outlive the holder: it lets go.
    os.register_at_fork(after_in_child=lambda: _close(held))
    try:
        try:
            fcntl.flock(held[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _told(run, os.pread(held[0], 1024, 0).decode(errors="replace").split()) from None
        with atomic.full_disk_told(run.lock):
            os.ftruncate(held[0], 0)
            os.pwrite(held[0], f"{os.getpid()} {os.uname().nodename}\n".encode(), 0)
        yield
    finally:
        _close(held)


def _close(held: list[int]) -> None:
    while held:
        os.close(held.pop())


def _told(run: Run, holder: list[str]) -> RunLocked:
    """The error, with the holder if it has written its name yet."""
    match holder:
        case [pid, host] if pid.isdecimal():
            why = f"process {pid} on {host} holds {run.lock.name}"
            fix = f"wait until it ends, or stop it on {host}: kill {pid}"
        case _:
            why = f"a process that began this moment holds {run.lock.name}"
            fix = "wait until it ends"
    return RunLocked("another process works in this run", where=str(run.path), why=why, fix=fix)
