"""Plain text and Markdown: a file is one document, however many paragraphs it has."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from finetune.data.files.opening import printing, whole_text
from finetune.data.files.records import Format, Raw
from finetune.errors import DataError

MAX_TEXT_BYTES = 256 * 2**20


def document(file: Path, shown: str, fmt: Format) -> Iterator[Raw]:
    """Yields the document.

    Raises:
        DataError: it is too large, not UTF-8, or has a character that no text has.
    """
    stem = shlex.quote(f"{Path(shown.removesuffix('.gz')).with_suffix('')}-")
    fix = f"{printing(shown, fmt.gzip)} | split -C 200M --additional-suffix=.txt - {stem}"
    text = whole_text(file, shown, MAX_TEXT_BYTES, fix)
    if (at := text.find("\0")) >= 0:
        why, fix = "it holds the character U+0000, which no text does", f"file {shlex.quote(shown)}"
        raise DataError("the file is not text", where=f"{shown}:{text.count(chr(10), 0, at) + 1}", why=why, fix=fix)
    blank = len(text) - len(text.lstrip())
    if text.strip():
        yield Raw(text.count("\n", 0, blank) + 1, {"text": text})
