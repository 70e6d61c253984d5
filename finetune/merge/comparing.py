"""Reads what was merged back from the disk, beside its base: every byte that should be the base's is compared."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from finetune import atomic
from finetune.errors import ArtifactError, ProofFailed
from finetune.model.streaming import PIECE_BYTES, as_bytes
from finetune.shards import Stored, check_index, list_tensors, shards


@dataclass(frozen=True)
class Compared:
    """Of all shards."""

    same: int
    """Tensors that should be the base's and are, bit for bit."""
    changed: int
    """Tensors that should differ from the base's and do."""
    unchanged: tuple[str, ...]
    """Tensors that should differ and do not: the tuning is smaller than their precision."""


def compare_bytes(
    base: Path, merged: Path, touched: Collection[Stored], hashes: Mapping[str, str], told: Callable[[int], None]
) -> Compared:
    """Compares all shards, and their index, with the base's; and every file with the hash that was noted.

    Args:
        base: its folder.
        merged: what was made of it.
        touched: the tensors of the base that should differ.
        hashes: sha256 of every file that was written.
        told: is told the bytes of each piece.

    Raises:
        ProofFailed: bytes that nobody should touch are others, or a file is not what was written.
        ArtifactError: index, headers and shards do not agree.
    """
    check_index(merged, list_tensors(shards(merged)))
    same, changed, unchanged = 0, 0, []
    for shard in shards(base):
        differing = _differing(shard, merged / shard.name, hashes[shard.name], told)
        for tensor in list_tensors([shard]):
            if tensor not in touched:
                if tensor.name in differing:
                    raise _failed(merged / shard.name, f"{tensor.name} is not the base's, and no adapter is on it")
                same += 1
            elif tensor.name in differing:
                changed += 1
            else:
                unchanged.append(tensor.name)
    return Compared(same, changed, tuple(unchanged))


def compare_files(files: Iterable[Path], merged: Path, hashes: Mapping[str, str]) -> None:
    """Compares files that were only copied with the base's, and with the hashes that were noted.

    Raises:
        ProofFailed: one is not the base's.
    """
    for file in files:
        if not atomic.sha256(file) == atomic.sha256(merged / file.name) == hashes[file.name]:
            raise _failed(merged / file.name, f"it is not what {file} holds now")


def _differing(shard: Path, made: Path, digest: str, told: Callable[[int], None]) -> set[str]:
    """Lists the tensors in which two shards of one layout differ.

    Raises:
        ProofFailed: sizes or headers differ, or the file is not what was written.
    """
    tensors = list_tensors([shard])
    begin = tensors[0].start if tensors else shard.stat().st_size
    if made.stat().st_size != shard.stat().st_size:
        raise _failed(made, "its size is not that of the base's shard")
    differing, read = set[str](), hashlib.sha256()
    with shard.open("rb", buffering=0) as old, made.open("rb", buffering=0) as new, ThreadPoolExecutor(1) as thread:
        os.posix_fadvise(new.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # what the disk holds, not what memory remembers
        spans = [("", 0, begin), *((t.name, t.start, t.start + t.num_bytes) for t in tensors)]
        hashed = None
        for name, pieces in groupby(_pieces(spans), key=lambda piece: piece[0]):
            for _, size in pieces:
                theirs, ours = _read(old, size, shard), _read(new, size, made)
                if hashed:
                    hashed.result()
                hashed = thread.submit(read.update, as_bytes(ours))
                if not torch.equal(theirs, ours):
                    differing.add(name)
                told(size)
    if "" in differing:
        raise _failed(made, "its header is not that of the base's shard")
    if read.hexdigest() != digest:
        raise _failed(made, "it is not what was written: the disk or another program changed it")
    return differing


def _pieces(spans: list[tuple[str, int, int]]) -> Iterator[tuple[str, int]]:
    """Cuts what follows one another in a file into pieces: whose they are, and their bytes."""
    for name, start, end in spans:
        for at in range(start, end, PIECE_BYTES):
            yield name, min(PIECE_BYTES, end - at)


def _read(opened: Any, size: int, file: Path) -> torch.Tensor:
    data = torch.empty(size, dtype=torch.uint8)
    rest = as_bytes(data)
    while rest:
        got = opened.readinto(rest)
        if not got:
            raise ArtifactError("a shard is cut short", where=str(file), why="it changed while it was read")
        rest = rest[got:]
    return data


def _failed(file: Path, why: str) -> ProofFailed:
    return ProofFailed("what was merged is not the base with its adapter", where=str(file), why=why)
