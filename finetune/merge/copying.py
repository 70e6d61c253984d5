"""Writes a shard as its base has it, changed weights in their places: read, hashed and written at the same time.

The header is copied byte for byte, so that names, dtypes, order and places cannot differ. A file has its name only once
all of it is on the disk.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from finetune import atomic
from finetune.errors import ArtifactError
from finetune.model.streaming import DTYPES, PIECE_BYTES, as_bytes
from finetune.shards import Stored, list_tensors, refetch

Rows = Callable[[], Iterator[torch.Tensor]]
"""Gives a tensor's new rows in order, (rows, in) float32; the next ones may overwrite them."""

Give = Callable[[], torch.Tensor]
"""Gives a buffer to fill."""

Take = Callable[[torch.Tensor, int], None]
"""Takes a buffer, and how many bytes of it were filled."""

NUM_BUFFERS = 4
"""Pieces that are filled, written or hashed at one time. They are used again: new memory costs more than a copy."""

FLUSH_BYTES = 64 * 2**20
"""After so many the disk is told to begin, so that it is not idle until the end of the file."""


class Sink:
    """A new file that is written, hashed and flushed by a thread each."""

    def __init__(self, path: Path) -> None:
        self.path, self.digest = path, hashlib.sha256()
        self._free = [torch.empty(PIECE_BYTES, dtype=torch.uint8) for _ in range(NUM_BUFFERS)]
        self._waiting: deque[tuple[torch.Tensor, list[Future[Any]]]] = deque()
        self._flush: Future[Any] | None = None
        self._written = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._file = stack.enter_context(self.path.open("wb", buffering=0))
            self._threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(3)]
            self._close = stack.pop_all().close
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                while self._waiting:
                    self._wait()
                self._flushed()
                os.fsync(self._file.fileno())
        finally:
            self._close()

    def buffer(self) -> torch.Tensor:
        """Gives memory for the next bytes, (bytes,) uint8.

        Raises:
            OSError: an earlier piece could not be written.
        """
        if not self._free:
            self._wait()
        return self._free.pop()

    def take(self, buffer: torch.Tensor, size: int) -> None:
        """Takes the next bytes, in memory that `buffer` gave and gives again once they are on their way."""
        write, digest, flush = self._threads
        data = as_bytes(buffer[:size])
        futures = [write.submit(self._write, data), digest.submit(self.digest.update, data)]
        self._waiting.append((buffer, futures))
        self._written += size
        if self._written >= FLUSH_BYTES and (self._flush is None or self._flush.done()):
            self._flushed()
            self._written, self._flush = 0, flush.submit(os.fdatasync, self._file.fileno())

    def _flushed(self) -> None:
        """Hears what the disk said: it tells an error once, and the last fsync would know nothing of it."""
        if self._flush is not None:
            self._flush.result()

    def _wait(self) -> None:
        buffer, futures = self._waiting.popleft()
        for future in futures:
            future.result()
        self._free.append(buffer)

    def _write(self, data: memoryview) -> None:
        while data:
            data = data[self._file.write(data) :]


def write_file(source: Path, target: Path, changed: Mapping[Stored, Rows], told: Callable[[int], None]) -> str:
    """Copies a file of the base into its place, and gives its sha256.

    Args:
        source: a shard, or any other file if nothing of it is changed.
        target: its new place; what is there is replaced once all is written.
        changed: new rows of some tensors.
        told: is told the bytes of each piece.

    Raises:
        ArtifactError: the source was cut short meanwhile.
        OSError: the disk is full, or the place takes nothing.
    """
    unfinished = target.with_name(f".{target.name}.part")
    with source.open("rb", buffering=0) as opened, Sink(unfinished) as sink:

        def take(buffer: torch.Tensor, size: int) -> None:
            sink.take(buffer, size)
            told(size)

        at = 0
        for tensor in sorted(changed, key=lambda each: each.start):
            _copy(opened, source, at, tensor.start, sink.buffer, take)
            _round(changed[tensor](), DTYPES[tensor.dtype], sink.buffer, take)
            at = tensor.start + tensor.num_bytes
        _copy(opened, source, at, os.fstat(opened.fileno()).st_size, sink.buffer, take)
    os.replace(unfinished, target)
    atomic.fsync(target.parent)
    return sink.digest.hexdigest()


def changed_in(source: Path, rows: Mapping[Stored, Rows]) -> dict[Stored, Rows]:
    """Picks the tensors that lie in one shard."""
    return {tensor: rows[tensor] for tensor in list_tensors([source]) if tensor in rows}


def _copy(opened: Any, source: Path, start: int, end: int, give: Give, take: Take) -> None:
    """Copies bytes of a file from here to there."""
    opened.seek(start)
    while start < end:
        buffer = give()
        got = opened.readinto(as_bytes(buffer[: end - start]))
        if not got:
            fix = refetch(source.parent, source.name)
            raise ArtifactError("a file of the base is cut short", where=str(source), why="it changed", fix=fix)
        take(buffer, got)
        start += got


def _round(pieces: Iterator[torch.Tensor], dtype: torch.dtype, give: Give, take: Take) -> None:
    """Rounds rows to the dtype on disk, as many of them together as a buffer holds."""
    buffer, filled = give(), 0
    for rows in pieces:
        size = rows.numel() * dtype.itemsize
        if filled + size > len(buffer):
            take(buffer, filled)
            buffer, filled = give(), 0
        buffer[filled : filled + size].view(dtype).view(rows.shape).copy_(rows)
        filled += size
    take(buffer, filled)
