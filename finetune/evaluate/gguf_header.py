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
    except (ValueError, struct.error) as error:  # of no bytes, or of bytes that are none of these
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
    if not isinstance(tokens, list):
        raise _another("tokenizer", file, f"its tokens are no list but {tokens!r:.60}")
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
    """Reads the value that begins at a byte, and tells where it ends.

    Raises:
        ValueError: it is of no known type, a list within a list, or longer than the file.
    """
    if kind == TEXT:
        return _text(data, at)
    if kind == LIST:
        return _list(data, at)
    form = _form(kind)
    return struct.unpack_from(f"<{form}", data, at)[0], at + struct.calcsize(f"<{form}")


def _list(data: mmap.mmap, at: int) -> tuple[list[Any], int]:
    inner, length = struct.unpack_from("<IQ", data, at)
    at += 12
    least = 8 if inner == TEXT else struct.calcsize(f"<{_form(inner)}")  # a text begins with its length
    if length * least > len(data) - at:
        raise ValueError("it ends within a list")
    if inner != TEXT:
        return list(struct.unpack_from(f"<{length}{_form(inner)}", data, at)), at + length * least
    texts = []
    for _ in range(length):
        text, at = _text(data, at)
        texts.append(text)
    return texts, at


def _form(kind: int) -> str:
    if kind == LIST:
        raise ValueError("a list within a list")
    if kind not in NUMBERS:
        raise ValueError(f"there is no type {kind} of a value")
    return NUMBERS[kind]


def _text(data: mmap.mmap, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    begin, end = at + 8, at + 8 + length
    if end > len(data):
        raise ValueError("it ends within a text")
    return data[begin:end].decode("utf-8", errors="replace"), end
