"""Reads what was merged back from the disk, beside its base: every byte that should be the base's is compared."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from finetune import atomic
from finetune.errors import ArtifactError, ProofFailed
from finetune.model.streaming import PIECE_BYTES, as_bytes
from finetune.shards import Stored, check_index, list_tensors, shards


def compare_bytes(
    base: Path, merged: Path, touched: Collection[Stored], hashes: Mapping[str, str], told: Callable[[int], None]
) -> int:
    """Compares all shards and their index with the base's, but for what should differ, and with the hashes noted.

    Args:
        base: its folder.
        merged: what was made of it.
        touched: the tensors of the base that should differ, which are not looked at.
        hashes: sha256 of every file that was written.
        told: is told the bytes of each piece.

    Returns:
        How many tensors are the base's, bit for bit.

    Raises:
        ProofFailed: bytes that nobody should touch are others, or a file is not what was written.
        ArtifactError: index, headers and shards do not agree.
    """
    check_index(merged, list_tensors(shards(merged)))
    return sum(_compare(shard, merged / shard.name, touched, hashes[shard.name], told) for shard in shards(base))


def compare_files(files: Iterable[Path], merged: Path, hashes: Mapping[str, str]) -> None:
    """Compares files that were only copied with the base's, and with the hashes that were noted.

    Raises:
        ProofFailed: one is not the base's.
    """
    for file in files:
        if not atomic.sha256(file) == atomic.sha256(merged / file.name) == hashes[file.name]:
            raise _failed(merged / file.name, f"it is not what {file} holds now")


def _compare(shard: Path, made: Path, touched: Collection[Stored], digest: str, told: Callable[[int], None]) -> int:
    """Compares two shards of one layout, and counts the tensors that are the same.

    Raises:
        ProofFailed: they differ elsewhere than they should, or the file is not what was written.
    """
    tensors = list_tensors([shard])
    begin = tensors[0].start if tensors else shard.stat().st_size
    if made.stat().st_size != shard.stat().st_size:
        raise _failed(made, "its size is not that of the base's shard")
    read, hashed, changed = hashlib.sha256(), None, {tensor.name for tensor in touched}
    spans = [("its header", 0, begin), *((t.name, t.start, t.start + t.num_bytes) for t in tensors)]
    theirs, *halves = torch.empty(3, PIECE_BYTES, dtype=torch.uint8)  # while one half is hashed, the other is read
    with shard.open("rb", buffering=0) as old, made.open("rb", buffering=0) as new, ThreadPoolExecutor(1) as thread:
        os.posix_fadvise(new.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # what the disk holds, not what memory remembers
        for (name, at, size), half in zip(_pieces(spans), cycle(halves), strict=False):
            ours = _read(new, half[:size], made)
            if hashed:
                hashed.result()
            hashed = thread.submit(read.update, as_bytes(ours))
            if name not in changed:
                old.seek(at)
                if not torch.equal(_read(old, theirs[:size], shard), ours):
                    raise _failed(made, f"{name} is not the base's, and nothing of it was trained")
            told(size)
    if read.hexdigest() != digest:
        raise _failed(made, "it is not what was written: the disk or another program changed it")
    return sum(tensor.name not in changed for tensor in tensors)


def _pieces(spans: list[tuple[str, int, int]]) -> Iterator[tuple[str, int, int]]:
    """Cuts what follows one another in a file into pieces: whose they are, where they begin, and their bytes."""
    for name, start, end in spans:
        for at in range(start, end, PIECE_BYTES):
            yield name, at, min(PIECE_BYTES, end - at)


def _read(opened: Any, data: torch.Tensor, file: Path) -> torch.Tensor:
    rest = as_bytes(data)
    while rest:
        got = opened.readinto(rest)
        if not got:
            raise ArtifactError("a shard is cut short", where=str(file), why="it changed while it was read")
        rest = rest[got:]
    return data


def _failed(file: Path, why: str) -> ProofFailed:
    return ProofFailed("what was merged is not the base with what was trained in it", where=str(file), why=why)
