"""Reads documents: their text, where headings stand in it, and on which line or page each part of it stood.

What a file holds decides how it is read; its name only decides whether it is taken from a folder.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.draft.document import Document, Heading, Unreadable, decoded
from finetune.errors import DataError, Problem

MARKDOWN = (".md", ".markdown", ".mdx")
WEB = (".html", ".htm", ".xhtml")
TEXT = (".txt", ".text", ".rst")
TAKEN = (*MARKDOWN, *TEXT, *WEB, ".pdf")
"""Endings of the files that are taken from a folder."""

MOST_BYTES = 2**28

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_NO_PARAGRAPH = re.compile(r" {0,3}(?:[-*+>|]|\d+[.)] )|    |\t")
"""How a line begins that an underline below does not make a heading of."""


@dataclass(frozen=True)
class Library:
    """What was read of all that was named."""

    documents: tuple[Document, ...]
    left_out: tuple[str, ...]
    """Files of folders whose ending says that they are none."""


def read_documents(named: Sequence[Path]) -> Library:
    """Reads files, and folders of them; one that is named twice is read once.

    Raises:
        DataError: some cannot be read or hold no text; all of these are told at once.
        OutsideError: HTML or PDF is to be read, and the package that does is missing.
    """
    documents: list[Document] = []
    left_out: list[str] = []
    problems: list[Problem] = []
    seen: set[tuple[int, int]] = set()
    for path in named:
        found = list(_files(path)) if path.is_dir() else [path]
        taken = [file for file in found if not path.is_dir() or file.suffix.lower() in TAKEN]
        left_out += [str(file) for file in found if file not in taken]
        if not taken:
            fix = f"its files may end with {', '.join(TAKEN)}"
            problems.append(Problem("the folder holds no documents", str(path), fix=fix))
        for file in taken:
            try:
                status = file.stat()
                if (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    documents.append(_read(file))
            except Unreadable as wrong:
                problems.append(Problem(wrong.what, str(file), wrong.why, wrong.fix))
            except OSError as error:
                why, fix = error.strerror or str(error), f"ls -ld {shlex.quote(str(file))}"
                problems.append(Problem("the document cannot be read", str(file), why, fix))
    if problems:
        raise DataError.of(problems)
    return Library(tuple(documents), tuple(left_out))


def plain(file: str, text: str) -> Document:
    """Makes a document of text without headings."""
    return _lined(file, text, ())


def markdown(file: str, text: str) -> Document:
    """Makes a document of Markdown; a # in a fence of code or in front matter is no heading."""
    headings: list[Heading] = []
    offset, fence, before, front = 0, "", "", re.match(r"---\n(?s:.*?)\n(?:---|\.\.\.)(?:\n|$)", text)
    for line in text.splitlines(keepends=True) if "\n" in text else [text]:
        bare = line.rstrip("\n")
        if front and offset < front.end():
            before = ""
        elif fence:
            closes = _FENCE.match(bare)
            if closes and closes[1].startswith(fence) and not bare[closes.end() :].strip():
                fence = ""
            before = ""
        elif opens := _FENCE.match(bare):
            fence, before = opens[1], ""
        elif (atx := _ATX.match(bare)) is not None:
            headings.append(Heading(offset, len(atx[1]), _title(atx[2] or "")))
            before = ""
        elif before.strip() and (under := _UNDERLINE.match(bare)):
            headings.append(Heading(offset - len(before), 1 if under[1][0] == "=" else 2, _title(before)))
            before = ""
        else:
            before = "" if _NO_PARAGRAPH.match(bare) else line
        offset += len(line)
    return _lined(file, text, tuple(headings))


def _files(folder: Path) -> Iterator[Path]:
    """All files under a folder, sorted; what begins with a dot is hidden, and links to folders are not followed."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def _read(file: Path) -> Document:
    with file.open("rb") as opened:
        raw = opened.read(MOST_BYTES + 1)
    if len(raw) > MOST_BYTES:
        raise Unreadable("the document is too long", f"at most {MOST_BYTES:,} bytes are read", "split it")
    document = _reader(raw, file)()
    if not document.text.strip():
        raise Unreadable(
            "the document holds no text", f"{len(raw):,} bytes, nothing in them to ask about", "leave it out"
        )
    return document


def _reader(raw: bytes, file: Path) -> Callable[[], Document]:
    head = raw[:1024].lstrip().lower()
    if head.startswith(b"%pdf-"):
        from finetune.draft.pdf import pdf

        return lambda: pdf(file, raw)
    if file.suffix.lower() in WEB or head.startswith((b"<!doctype html", b"<html")):
        from finetune.draft.web import web

        return lambda: web(file, raw)
    if file.suffix.lower() == ".pdf":
        raise Unreadable("this is no PDF", "it does not begin with %PDF-", f"file {shlex.quote(str(file))}")
    reader = markdown if file.suffix.lower() in MARKDOWN else plain
    return lambda: reader(str(file), decoded(raw, file))


def _lined(file: str, text: str, headings: tuple[Heading, ...]) -> Document:
    starts = (0, *(found.end() for found in re.finditer("\n", text)))
    return Document(file, text, headings, "lines", starts, tuple(range(1, len(starts) + 1)))


def _title(words: str) -> str:
    return " ".join(re.sub(r"[*`]|\]\([^)]*\)|\[", "", words).split())
