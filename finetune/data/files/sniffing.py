"""Finds what a file holds by its content; its name decides only what the content leaves open."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import BinaryIO

from finetune.data.files.delimited import delimited_name
from finetune.data.files.foreign import check_readable, check_workbook, is_wide_xml, other_stem
from finetune.data.files.json_shapes import json_name
from finetune.data.files.opening import BOM, is_packed, opened, opened_anywhere
from finetune.data.files.records import MAX_RECORD_BYTES, Format, no_rows
from finetune.data.files.workbook import sheets_note
from finetune.data.files.xml_records import begins_xml
from finetune.errors import DataError

HEAD_BYTES = 2**18

_MARKDOWN = re.compile(r"^(?:#{1,6} \S|```|\[!\[|\|[ :-]*---)", re.MULTILINE)


def sniff(file: Path, shown: str) -> Format:
    """Says what a file holds, from its beginning.

    Raises:
        DataError: it cannot be read, is empty, or is of a format that is not read; with the way out.
    """
    with opened(file, shown) as stream:
        packed = is_packed(stream)
        head, whole = _head(stream)
    if not head.strip():
        raise no_rows(f"{shown}:1")
    if head.startswith(b"PAR1"):
        return Format("Parquet", packed, "row")
    if head.startswith(b"PK\3\4"):
        with opened_anywhere(file, shown) as stream:
            check_workbook(stream, shown)
            stream.seek(0)
            return Format("Excel", packed, "row", sheets_note(stream, shown))
    if is_wide_xml(head):
        return Format("XML", packed)
    check_readable(head, shown, packed)
    text = head.decode("utf-8", errors="replace")
    bare = text.lstrip()
    if bare[:14].lower().startswith(("<!doctype html", "<html")):
        made = shlex.quote(f"{other_stem(shown)}.txt")
        fix = f"pandoc -f html -t plain --wrap=none {shlex.quote(shown)} -o {made}"
        raise DataError("the file is a web page", where=f"{shown}:1", why="its text stands among markup", fix=fix)
    called = file.name.lower().removesuffix(".gz")
    if bare.startswith("<") and (called.endswith(".xml") or begins_xml(bare, whole)):
        return Format("XML", packed)
    name = json_name(text, whole) or delimited_name(text, whole, called.endswith((".csv", ".tsv", ".tab")))
    if not name and called.endswith((".jsonl", ".ndjson", ".json")):
        return Format("JSON Lines", packed)  # broken in its first line: to be told, not to be learnt as a text
    return Format(name or ("Markdown" if _MARKDOWN.search(text) else "text"), packed)


def _head(stream: BinaryIO) -> tuple[bytes, bool]:
    """Reads the beginning: past what is blank and, where it begins with an object, into the second line."""
    head = b""
    while len(head) <= MAX_RECORD_BYTES and (piece := stream.read(HEAD_BYTES)):
        head += piece
        bare = head.removeprefix(BOM).strip()
        first, _, rest = bare.partition(b"\n")
        if bare and (not first.startswith(b"{") or rest.strip()):
            break
    return head.removeprefix(BOM), not stream.read(1)
