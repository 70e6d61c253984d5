"""Reads tensors out of safetensors files piece by piece, in the order in which they lie, through one small buffer.

Nothing is mapped into memory: mapped pages count as the process's own, and a container that may hold 8 GB would be
killed over a base of 55. What is not asked for is not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, groupby
from pathlib import Path
from typing import Any, BinaryIO

import torch

from finetune.errors import ArtifactError
from finetune.shards import Stored, refetch

PIECE_BYTES = 8 * 2**20
"""About what is read at a time: enough for a disk to be at its best, and little beside any model."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""By the names that safetensors has for them."""


@dataclass(frozen=True)
class Piece:
    """Some rows of a tensor, on the device that they were asked on."""

    tensor: Stored
    first: int
    """Which row of the tensor they begin with."""
    rows: torch.Tensor
    """(rows, width), in the dtype on disk. Lent: on a CPU the next piece overwrites them."""


def stream(
    tensors: Sequence[Stored],
    device_of: Callable[[Stored], torch.device],
    *,
    together: Callable[[Stored], int] = lambda tensor: 1,
    read: Callable[[Stored, memoryview], None] = lambda tensor, data: None,
) -> Iterator[Piece]:
    """Reads tensors in the order given; in the order in which they lie, that is one sweep over the disk.

    With a GPU the buffer is pinned and has two halves: while one is copied to it, the other is read into.

    Args:
        tensors: what to read; the bytes between them are skipped.
        device_of: where the rows of a tensor are wanted.
        together: rows of a tensor that are useless apart; a piece is a whole number of them, save at the end.
        read: is shown the bytes of each piece as they came from the disk.

    Raises:
        ArtifactError: a file ended before the tensor did: it was changed since its header was read.
    """
    cuda = any(device_of(tensor).type == "cuda" for tensor in tensors)
    buffer = torch.empty((1 + cuda, buffer_bytes(tensors, together)), dtype=torch.uint8, pin_memory=cuda)
    halves = cycle([(half, torch.cuda.Event() if cuda else None) for half in buffer])
    for file, inside in groupby(tensors, key=lambda tensor: tensor.file):
        with file.open("rb", buffering=0) as opened:
            for tensor in inside:
                opened.seek(tensor.start)
                step = _rows_at_once(tensor, together(tensor))
                for first in range(0, tensor.num_rows, step):
                    half, copied = next(halves)
                    if copied is not None:
                        copied.synchronize()  # returns at once if this half was never copied from
                    part = half[: min(step, tensor.num_rows - first) * tensor.row_bytes]
                    _read_into(opened, memoryview(part.numpy()), file)
                    read(tensor, memoryview(part.numpy()))
                    rows = part.view(DTYPES[tensor.dtype]).view(-1, tensor.width)
                    rows = rows.to(device_of(tensor), non_blocking=True)
                    if copied is not None:
                        copied.record()
                    yield Piece(tensor, first, rows)


def buffer_bytes(tensors: Iterable[Stored], together: Callable[[Stored], int] = lambda tensor: 1) -> int:
    """Tells what `stream` holds of the tensors at a time, on a GPU twice."""
    return max((min(_rows_at_once(t, together(t)), t.num_rows) * t.row_bytes for t in tensors), default=0)


def _rows_at_once(tensor: Stored, together: int) -> int:
    return max(together, PIECE_BYTES // tensor.row_bytes // together * together)


def _read_into(opened: BinaryIO, rest: memoryview, file: Path) -> None:
    fix = refetch(file.parent, file.name)
    try:
        while rest:
            got = opened.readinto(rest)  # type: ignore[attr-defined]
            if not got:
                raise ArtifactError("a shard of the base is cut short", where=str(file), why="it changed", fix=fix)
            rest = rest[got:]
    except OSError as error:
        why = f"{error.strerror}; the disk may be failing"
        raise ArtifactError("a shard of the base cannot be read", where=str(file), why=why, fix=fix) from error


def read_whole(tensor: Stored) -> torch.Tensor:
    """Reads one tensor in its shape and the dtype on disk.

    Raises:
        ArtifactError: the file ended before the tensor did: it was changed since its header was read.
    """
    data = torch.empty(tensor.num_bytes, dtype=torch.uint8)
    with tensor.file.open("rb", buffering=0) as opened:
        opened.seek(tensor.start)
        _read_into(opened, as_bytes(data), tensor.file)
    return data.view(DTYPES[tensor.dtype]).view(tensor.shape)


def as_bytes(data: torch.Tensor) -> memoryview:
    """Gives the bytes of a tensor on the CPU, which share its memory."""
    array: Any = data.reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)
