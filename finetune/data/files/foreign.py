"""Knows the files that are not read by their first bytes, to say in one line how to make a file that is."""

from __future__ import annotations

import re
import shlex
import zipfile
from typing import BinaryIO

from finetune.data.files.opening import printing, renamed
from finetune.errors import DataError

_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"%PDF", "a PDF", "pdftotext -layout {name} {stem}.txt"),
    (b"{\\rtf", "an RTF document", "pandoc {name} -t plain --wrap=none -o {stem}.txt"),
    (
        b"\xd0\xcf\x11\xe0",
        "an old Office file (.xls, .doc)",
        "libreoffice --headless --convert-to xlsx --outdir converted {name}",
    ),
    (b"ARROW1", "an Arrow file", "{arrow}"),
    (b"\xff\xff\xff\xff", "an Arrow stream", "{arrow}"),
    (b"BZh", "packed with bzip2", "bunzip2 -k {name}"),
    (b"\xfd7zXZ\0", "packed with xz", "xz -dk {name}"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "zstd -d {name}"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x {name}"),
    (b"Rar!", "a RAR archive", "unrar x {name}"),
    (b"SQLite format 3\0", "an SQLite database", "sqlite3 -csv -header {name} 'select * from TABLE' > {stem}.csv"),
)
"""First bytes, what they mean, and the command that makes a file to be read."""

_ARROW = (
    "python -c 'import sys, datasets; datasets.Dataset.from_file(sys.argv[1]).to_json(sys.argv[2])' {name} {stem}.jsonl"
)
_CONTROLS = re.compile(rb"[\x00-\x07\x0e-\x1a\x1c-\x1f\x7f]")
MOST_CONTROLS = 0.02
"""The share of control characters above which bytes are no text."""

_ZIPPED = (
    ("word/", "a Word document", "pandoc {name} -t plain --wrap=none -o {stem}.txt"),
    ("ppt/", "a PowerPoint file", "libreoffice --headless --convert-to pdf --outdir converted {name}"),
    ("content.xml", "an OpenDocument file", "libreoffice --headless --convert-to xlsx --outdir converted {name}"),
    (
        "xl/workbook.bin",
        "a binary Excel file (.xlsb)",
        "libreoffice --headless --convert-to xlsx --outdir converted {name}",
    ),
)


def check_readable(head: bytes, shown: str, packed: bool) -> None:
    """Refuses what is known not to be read, and what is no text.

    Args:
        head: the first bytes, unpacked.
        shown: the name of the file.
        packed: whether they came out of gzip.

    Raises:
        DataError: with the command that makes a file that is read.
    """
    for magic, what, fix in _MAGIC:
        if head.startswith(magic):
            raise _foreign(what, fix, shown)
    if head[257:262] == b"ustar":
        raise _foreign("a tar archive", "tar -xf {name}", shown)
    if (encoding := _wide_encoding(head)) != "":
        fix = f"{printing(shown, packed)} | iconv -f {encoding} -t utf-8 > {shlex.quote(renamed(shown, 'utf8'))}"
        why = "two bytes stand for each letter"
        raise DataError("the text is not UTF-8", where=f"{shown}:1", why=why, fix=fix)
    if b"\0" in head or len(_CONTROLS.findall(head)) > MOST_CONTROLS * len(head):
        why = "its bytes are no text, and of no format that is known"
        raise DataError("the file is binary", where=shown, why=why, fix=f"file {shlex.quote(shown)}")


def check_workbook(stream: BinaryIO, shown: str) -> None:
    """Refuses a zip that is no Excel file.

    Raises:
        DataError: it is cut off, or something else in a zip.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError) as error:
        why, fix = str(error), f"unzip -t {shlex.quote(shown)}"
        raise DataError("the zip or Excel file is cut off or damaged", where=shown, why=why, fix=fix) from None
    if "xl/workbook.xml" in names:
        return
    for part, what, fix in _ZIPPED:
        if any(name.startswith(part) for name in names):
            raise _foreign(what, fix, shown)
    raise _foreign("a zip archive", "unzip {name}", shown)


def other_stem(shown: str) -> str:
    """Gives the name of a file without its suffix; with another word where what is made could bear the same name."""
    named_so = shown.lower().endswith((".txt", ".csv", ".jsonl"))
    return renamed(shown, "") + (".converted" if named_so else "")


def is_wide_xml(head: bytes) -> bool:
    """Knows XML in UTF-16, which says its encoding itself."""
    return head.startswith((b"\xff\xfe<\0?\0", b"\xfe\xff\0<\0?"))


def _wide_encoding(head: bytes) -> str:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    zeros = [head[start::2].count(0) / max(1, len(head[start::2])) for start in (0, 1)]
    letters = head.replace(b"\0", b"")
    if len(head) < 8 or max(zeros) < 0.4 or min(zeros) > 0.05 or _CONTROLS.search(letters):
        return ""
    return "utf-16le" if zeros[1] > zeros[0] else "utf-16be"


def _foreign(what: str, fix: str, shown: str) -> DataError:
    name, stem = shlex.quote(shown), shlex.quote(other_stem(shown))
    fix = fix.replace("{arrow}", _ARROW).replace("{name}", name).replace("{stem}", stem)
    why = "JSON, JSON Lines, CSV, TSV, Parquet, Excel, XML and text are read"
    return DataError(f"the file is {what}", where=shown, why=why, fix=fix)
