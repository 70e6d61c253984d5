"""What a file of weights says in words: the metadata of safetensors and of GGUF, read without a weight.

Source: safetensors' README (format); ggml, docs/gguf.md (version 3).
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from finetune.errors import ArtifactError
from finetune.shards import MOST_HEADER_BYTES

MOST_STRINGS = 1000
"""In an array that is read: one with more is a vocabulary."""

_FIXED = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""GGUF's types of value -> bytes."""

_STRING, _ARRAY = 8, 9


def words_of(file: Path) -> Iterator[tuple[str, str]]:
    """Yields each key of a file's metadata with its text.

    Raises:
        ArtifactError: it is not the file that its name says.
    """
    try:
        with file.open("rb") as opened:
            yield from (_gguf if file.suffix == ".gguf" else _safetensors)(opened)
    except (ValueError, struct.error, AttributeError, RecursionError) as error:
        why = f"its header cannot be read: {error}"
        fix = "finetune verify RUN   # names every file that is not as it was proven"
        raise ArtifactError(f"{file.name} is no {file.suffix[1:]} file", where=str(file), why=why, fix=fix) from error


def _safetensors(opened: BinaryIO) -> Iterator[tuple[str, str]]:
    told = json.loads(_taken(opened, _number(opened, "<Q")))
    for key, value in told.get("__metadata__", {}).items():
        yield key, str(value)
    yield from (("a tensor's name", name) for name in told if name != "__metadata__")


def _gguf(opened: BinaryIO) -> Iterator[tuple[str, str]]:
    if _taken(opened, 4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    _taken(opened, 4 + 8)  # version, tensors
    for _ in range(_number(opened, "<Q")):
        key = _text(opened)
        for text in _value(opened, _number(opened, "<I")):
            yield key, text


def _value(opened: BinaryIO, kind: int) -> Iterator[str]:
    """Reads a value whole, and yields the texts in it; those of a vocabulary are passed over."""
    if kind == _STRING:
        yield _text(opened)
    elif kind == _ARRAY:
        inner, length = _number(opened, "<I"), _number(opened, "<Q")
        if inner == _ARRAY:
            raise ValueError("an array within an array")
        if inner in _FIXED:
            _pass(opened, _FIXED[inner] * length)
        elif inner != _STRING:
            raise ValueError(f"there is no type {inner} of a value")
        elif length <= MOST_STRINGS:
            for _ in range(length):
                yield from _value(opened, inner)
        else:
            for _ in range(length):
                _pass(opened, _number(opened, "<Q"))
    elif kind not in _FIXED:
        raise ValueError(f"there is no type {kind} of a value")
    else:
        _taken(opened, _FIXED[kind])


def _text(opened: BinaryIO) -> str:
    return _taken(opened, _number(opened, "<Q")).decode(errors="replace")


def _number(opened: BinaryIO, form: str) -> int:
    return int(struct.unpack(form, opened.read(struct.calcsize(form)))[0])


def _pass(opened: BinaryIO, length: int) -> None:
    """Passes over bytes that must be there; beyond the end of a file one could go without being told."""
    if length > os.fstat(opened.fileno()).st_size - opened.tell():
        raise ValueError("it is cut short")
    opened.seek(length, 1)


def _taken(opened: BinaryIO, length: int) -> bytes:
    if length > MOST_HEADER_BYTES:
        raise ValueError(f"{length:,} bytes of it are one text")
    found = opened.read(length)
    if len(found) != length:
        raise ValueError("it is cut short")
    return found
