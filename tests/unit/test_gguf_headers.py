"""A damaged or hostile GGUF is refused by both readers of its header in words, quickly, and never by a traceback."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from finetune.errors import ArtifactError
from finetune.evaluate.gguf_header import check_tokenizer, read_header
from finetune.publish.headers import words_of


def text(words: str) -> bytes:
    return struct.pack("<Q", len(words)) + words.encode()


def gguf(*values: bytes, count: int | None = None) -> bytes:
    """A file of version 3 without tensors, each value under `k`."""
    told = len(values) if count is None else count
    return b"GGUF" + struct.pack("<IQQ", 3, 0, told) + b"".join(text("k") + value for value in values)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (gguf(struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 3000), "a list within a list"),
        (gguf(struct.pack("<IIQ", 9, 0, 2**62)), "it ends within a list"),
        (gguf(struct.pack("<IIQ", 9, 12, 2**64 - 1)), "it ends within a list"),
        (gguf(struct.pack("<IIQ", 9, 8, 2**63)), "it ends within a list"),
        (gguf(struct.pack("<II", 99, 5)), "there is no type 99 of a value"),
        (gguf(struct.pack("<IIQ", 9, 99, 1)), "there is no type 99 of a value"),
        (gguf(struct.pack("<IQ", 8, 2**63)), "it ends within a text"),
        (gguf(count=2**63), "requires a buffer"),
        (b"GGUF", "requires a buffer"),
        (b"", "empty file"),
    ],
)
def test_a_header_that_claims_what_is_not_there_is_told(raw: bytes, why: str, tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(raw)
    with pytest.raises(ArtifactError) as told:
        read_header(file)
    assert why in told.value.problems[0].why
    with pytest.raises(ArtifactError, match=r"x\.gguf is no gguf file") as told:
        list(words_of(file))
    assert told.value.problems[0].fix.startswith("finetune verify")


def test_both_readers_read_a_sound_header_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    numbers, words = struct.pack("<IIQ3H", 9, 2, 3, 1, 2, 3), struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    file.write_bytes(gguf(numbers, words))
    assert read_header(file) == {"k": ["a", "b"]}
    assert list(words_of(file)) == [("k", "a"), ("k", "b")]


def test_tokens_that_are_no_list_are_another_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}, "merges": []}, "added_tokens": []}')
    with pytest.raises(ArtifactError, match="the tokenizer of the GGUF is not the run's") as told:
        check_tokenizer(tmp_path / "x.gguf", {"tokenizer.ggml.tokens": 5}, tmp_path)
    assert told.value.problems[0].why == "its tokens are no list but 5"
