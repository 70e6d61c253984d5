"""What a GGUF says of itself, read without llama.cpp: its metadata, and whether tokenizer and template are a run's.

Source: llama.cpp, docs of the GGUF format, gguf_header_t and gguf_metadata_kv_t.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

from finetune.errors import ArtifactError
from finetune.llamacpp import MAGIC
from finetune.shards import read_json

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Number of a type -> how `struct` calls it."""

TEXT, LIST = 8, 9

AGAIN = "finetune export RUN   # makes it of this run again"


def read_header(file: Path) -> dict[str, Any]:
    """Reads all metadata of a file.

    Raises:
        ArtifactError: it is no GGUF, or ends too early.
    """
    if not file.is_file():
        raise ArtifactError("there is no such file", where=str(file), fix=AGAIN)
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[: len(MAGIC)] != MAGIC:
                raise ArtifactError(
                    "this is no GGUF file", where=str(file), why="it does not begin with GGUF", fix=AGAIN
                )
            (count,) = struct.unpack_from("<Q", data, 16)
            fields, at = {}, 24
            for _ in range(count):
                name, at = _text(data, at)
                (kind,) = struct.unpack_from("<I", data, at)
                fields[name], at = _value(data, at + 4, kind)
            return fields
    except (
        ValueError,
        KeyError,
        struct.error,
        MemoryError,
    ) as error:  # of no bytes, or of bytes that are none of these
        raise ArtifactError("the GGUF file is damaged", where=str(file), why=str(error), fix=AGAIN) from error


def check_tokenizer(file: Path, fields: dict[str, Any], folder: Path) -> None:
    """Compares tokens and merges of a GGUF with the tokenizer of a base.

    Args:
        file: the GGUF.
        fields: its metadata.
        folder: of the base.

    Raises:
        ArtifactError: they differ, or the file does not tell them.
    """
    told = read_json(folder / "tokenizer.json", "the base's tokenizer")
    ids = {**told["model"]["vocab"], **{token["content"]: token["id"] for token in told["added_tokens"]}}
    tokens = fields.get("tokenizer.ggml.tokens", [])
    for token, number in ids.items():
        found = tokens[number] if number < len(tokens) else None
        if found != token:
            raise _another("tokenizer", file, f"token {number} is {found!r}, and {token!r} in the run's base")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in told["model"]["merges"]]
    if fields.get("tokenizer.ggml.merges") != merges:
        raise _another("tokenizer", file, "its merges are others")


def check_template(file: Path, fields: dict[str, Any], template: str) -> None:
    """Compares the chat template of a GGUF with the one that a run's export writes.

    Raises:
        ArtifactError: it is another.
    """
    if fields.get("tokenizer.chat_template") != template:
        raise _another("chat template", file, "answers to another prompt say nothing of the run")


def _another(what: str, file: Path, why: str) -> ArtifactError:
    return ArtifactError(f"the {what} of the GGUF is not the run's", where=str(file), why=why, fix=AGAIN)


def _value(data: mmap.mmap, at: int, kind: int) -> tuple[Any, int]:
    if kind == TEXT:
        return _text(data, at)
    if kind == LIST:
        inner, length = struct.unpack_from("<IQ", data, at)
        at += 12
        if inner in NUMBERS:
            form = f"<{length}{NUMBERS[inner]}"
            return list(struct.unpack_from(form, data, at)), at + struct.calcsize(form)
        items = []
        for _ in range(length):
            item, at = _value(data, at, inner)
            items.append(item)
        return items, at
    form = f"<{NUMBERS[kind]}"
    return struct.unpack_from(form, data, at)[0], at + struct.calcsize(form)


def _text(data: mmap.mmap, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    begin, end = at + 8, at + 8 + length
    if end > len(data):
        raise ValueError("it ends within a text")
    return data[begin:end].decode("utf-8", errors="replace"), end
