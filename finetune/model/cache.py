"""A quantised base on disk, so that the next start reads 15 GB and not 55; used whole and undamaged, or not at all.

    <cache>/<key>/00000.safetensors …   every tensor of the model as it lies in memory, layer by layer
    <cache>/<key>/cache.json            from what it was made, and bytes and checksums of every file

It is built in a hidden folder that gets its name last. Sizes and headers are checked before anything is read, and the
checksum of every byte while it is read: that costs 0.15 s a GB, and no start is without it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import bitsandbytes
import torch

from finetune import atomic
from finetune.errors import ArtifactError, DoesNotFit
from finetune.memory.loss import TILE
from finetune.model.streaming import DTYPES, PIECE_BYTES
from finetune.plan import Plan
from finetune.shape import fingerprint
from finetune.shards import read_header, shards

PASSPORT = "cache.json"

PROVEN = {"bytes", "header_crc32", "data_crc32"}
"""What a passport tells of each file."""

FORMAT = 2
"""Grows when what is written changes; an older cache is then not found."""

FILE_BYTES = 2 * 10**9
"""Of a file, unless one tensor is larger."""

_STAGING = re.compile(r"\.[0-9a-f]{32}\.\d+-[0-9a-f]{8}")

Say = Callable[[str], None]


def ingredients(folder: Path, plan: Plan) -> dict[str, Any]:
    """Lists all that decides the bits of a quantised base. Where it lies in memory is not among it."""
    return {
        "format": FORMAT,
        "base": fingerprint(folder),  # which only samples the shards; whatever was written since has another time
        "written": [file.stat().st_mtime_ns for file in shards(folder)],
        "quantisation": plan.quantisation,
        "unquantised": list(plan.unquantised),
        "dtype": plan.dtype,
        "device": plan.device,  # bitsandbytes has other kernels there, which may round a tie to the other side
        "head": plan.choices.head if plan.choices.head == "full" else [plan.choices.head, TILE],
        "bitsandbytes": bitsandbytes.__version__,
    }


def entry_of(cache: Path, made_from: Mapping[str, Any]) -> Path:
    """Names the folder of a base that was made from these."""
    return cache / hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:32]


def find(cache: Path, made_from: Mapping[str, Any], say: Say) -> Path | None:
    """Finds a cache whose files are there, whole in length, and under the right header; removes one that is not."""
    entry = entry_of(cache, made_from)
    try:
        _sweep(cache)
        if not os.path.lexists(entry):
            return None
        wrong = _wrong(entry, made_from)
    except OSError as error:
        say(f"the quantised cache cannot be read, and is not used: {error}")
        return None
    if wrong:
        discard(entry, wrong, say)
        return None
    return entry


def passport(entry: Path) -> dict[str, Any]:
    """Reads what a cache says of itself."""
    told: dict[str, Any] = json.loads((entry / PASSPORT).read_text())
    return told


def discard(entry: Path, why: str, say: Say) -> None:
    """Removes a cache that is not to be trusted, its name first, so that no half of it is taken for a whole."""
    say(f"the quantised cache is removed and made again: {why}")
    doomed = _hidden(entry)
    try:
        entry.rename(doomed)
        if doomed.is_dir() and not doomed.is_symlink():
            shutil.rmtree(doomed)
        else:
            doomed.unlink()
    except OSError as error:
        say(f"it could not be removed, and is not used: {error}")


def keep(model: Any, cache: Path, made_from: Mapping[str, Any], say: Say) -> None:
    """Writes a model down for the next start. Whatever prevents it is told, and the model is as good without."""
    entry = entry_of(cache, made_from)
    if os.path.lexists(entry):
        return  # another process was faster, or it is not ours to replace, as was told
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    needed = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    say(f"the quantised base is written down for the next start: {needed / 1e9:.1f} GB in {cache}")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free
        if free < needed:
            raise DoesNotFit("the disk is too small", why=f"it needs {needed:,} bytes, {free:,} are free")
        with _staging(entry) as folder, atomic.full_disk_told(folder, needed):
            files = {}
            for number, group in enumerate(_groups(state)):
                name = f"{number:05}.safetensors"
                files[name] = _write(folder / name, group)
            (folder / PASSPORT).write_text(json.dumps({"made_from": made_from, "files": files}, indent=2) + "\n")
            if not entry.exists():  # another process may have been faster
                atomic.publish(folder, entry)
    except DoesNotFit as error:
        say(f"the quantised cache is not written: {error.problems[0].what}, {error.problems[0].why}")
    except OSError as error:
        say(f"the quantised cache is not written: {error}")


def _wrong(entry: Path, made_from: Mapping[str, Any]) -> str:
    """Tells what is wrong with a cache; nothing if it may be used.

    Raises:
        PermissionError: it is somebody else's, and closed.
    """
    try:
        told = passport(entry)
        files: dict[str, dict[str, int]] = told["files"]
        if told["made_from"] != made_from:
            return f"{PASSPORT} is that of another base"
        if sorted([*files, PASSPORT]) != sorted(os.listdir(entry)):
            return f"its files are not those that {PASSPORT} lists"
        for name, proven in files.items():
            (entry / name).open("rb").close()  # what is not ours to read is not ours to judge
            if proven.keys() != PROVEN:
                return f"{PASSPORT} does not tell {', '.join(sorted(PROVEN - proven.keys()))} of {name}"
            if (entry / name).stat().st_size != proven["bytes"]:
                return f"{name} is not as long as it was"
            read_header(entry / name)
            if header_crc32(entry / name) != proven["header_crc32"]:
                return f"the header of {name} is damaged"
    except ArtifactError as error:
        return f"{Path(error.problems[0].where).name} is damaged"
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{PASSPORT} cannot be read: {type(error).__name__}"
    return ""


def header_crc32(file: Path) -> int:
    """Gives the checksum of all that stands before a file's tensors."""
    with file.open("rb") as opened:
        length = opened.read(8)
        return zlib.crc32(length + opened.read(int.from_bytes(length, "little")))


def _groups(state: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Parts a model into files, in its own order, which is that of its layers."""
    group: dict[str, torch.Tensor] = {}
    held = 0
    for name, tensor in state.items():
        size = tensor.numel() * tensor.element_size()
        if group and held + size > FILE_BYTES:
            yield group
            group, held = {}, 0
        group[name] = tensor
        held += size
    yield group


def _write(file: Path, group: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Writes a safetensors file without holding its bytes, and gives its length and checksums.

    Source: https://huggingface.co/docs/safetensors, section Format.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in group.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        dtype = next(told for told, held in DTYPES.items() if held == tensor.dtype)
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors begin where their elements are aligned
    head = len(text).to_bytes(8, "little") + text
    checksum = 0
    with file.open("wb") as opened:
        opened.write(head)
        for tensor in group.values():
            for piece in tensor.detach().reshape(-1).view(torch.uint8).split(PIECE_BYTES):
                data = memoryview(piece.cpu().numpy())
                checksum = zlib.crc32(data, checksum)
                opened.write(data)
    return {"bytes": len(head) + end, "header_crc32": zlib.crc32(head), "data_crc32": checksum}


def _hidden(entry: Path) -> Path:
    """Names a folder beside the entry that `_sweep` removes once this process is gone."""
    return entry.with_name(f".{entry.name}.{os.getpid()}-{os.urandom(4).hex()}")


@contextmanager
def _staging(entry: Path) -> Iterator[Path]:
    """Gives a hidden folder beside the entry, locked while this process lives and removed unless it was renamed."""
    folder = _hidden(entry)
    folder.mkdir()
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)  # nothing is left to remove once it was renamed


def _sweep(cache: Path) -> None:
    """Removes what processes left that were killed while they wrote: the kernel has freed their lock."""
    for folder in cache.iterdir() if cache.is_dir() else ():
        if not _STAGING.fullmatch(folder.name) or not folder.is_dir():
            continue
        with suppress(OSError):  # its writer lives, or another process was faster, or it is somebody else's
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)
