"""XML: the element that repeats nearest the root, and has two or more fields, is the record.

The standard library's expat does the parsing. What makes XML unsafe to read are entities, and these are declared in a
DTD alone: a file with one is refused before any entity can be.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

from finetune.data.files.opening import CHUNK_BYTES, opened
from finetune.data.files.records import MAX_RECORD_BYTES, Format, Raw
from finetune.errors import DataError

MAX_DEPTH = 64

Event = tuple[str, str, int]
"""`start` with a tag, `text` with its characters, or `end` with a tag; and the line."""

Path_ = tuple[str, ...]


@dataclass(frozen=True)
class Element:
    """An element while it is read: frozen but for what is put into it."""

    tag: str
    line: int
    content: list[str | Element] = field(default_factory=list)


def begins_xml(head: str, whole: bool) -> bool:
    """Tells XML from a text that begins with a tag: as far as it goes, it is well-formed."""
    if head.startswith(("<?xml", "<!DOCTYPE")):
        return True
    try:
        expat.ParserCreate().Parse(head.rstrip("\ufffd").encode("utf-8"), whole)
    except expat.ExpatError:
        return False
    return True


def xml_records(file: Path, shown: str, _: Format) -> Iterator[Raw]:
    """Yields each record: the tags of its children, and their texts.

    A child with children of its own is a dict, a tag that stands several times a list.

    Raises:
        DataError: it is not well-formed, has a DTD, or no element in it is a record.
    """
    wanted = _record_path(file, shown)
    path: list[str] = []
    tree: list[Element] = []
    bytes_read = 0
    for word, told, line in _events(file, shown):
        if word == "start":
            path.append(told)
            if tree or tuple(path) == wanted:
                element = Element(told, line)
                if tree:
                    tree[-1].content.append(element)
                tree.append(element)
        elif word == "text":
            if tree:
                tree[-1].content.append(told)
                bytes_read += len(told)
                if bytes_read > MAX_RECORD_BYTES:
                    raise _wrong("the record is too long for a row", shown, tree[0].line, f"{MAX_RECORD_BYTES:,} bytes")
        else:
            path.pop()
            if tree and len(tree) > 1:
                tree.pop()
            elif tree:
                yield Raw(tree[0].line, _fields(tree.pop()))
                bytes_read = 0


def _record_path(file: Path, shown: str) -> Path_:
    """Reads the file once to find the path of the tags that lead to its records."""
    counts: dict[Path_, int] = {}
    path: list[str] = []
    named: list[set[str]] = []  # for each open element, the tags of its children that have text of their own
    has_text: list[bool] = []
    for word, told, _ in _events(file, shown):
        if word == "start":
            path.append(told)
            named.append(set())
            has_text.append(False)
        elif word == "text":
            has_text[-1] = has_text[-1] or not told.isspace()
        else:
            if len(named.pop()) >= 2:
                counts[tuple(path)] = counts.get(tuple(path), 0) + 1
            path.pop()
            if has_text.pop() and named:
                named[-1].add(told)
    repeated = [path for path, count in counts.items() if count > 1] or (list(counts) if len(counts) == 1 else [])
    if not repeated:
        what, why = "no element of the XML is a record", "a record repeats, and has two or more children with text"
        raise _wrong(what, shown, 1, why)
    nearest = [path for path in repeated if len(path) == min(map(len, repeated))]
    if len(nearest) > 1:
        what = "the XML holds several kinds of records"
        raise _wrong(what, shown, 1, f"{', '.join(path[-1] for path in nearest[:4])} stand at the same depth")
    return nearest[0]


def _fields(element: Element) -> dict[str, Any]:
    """Gives the children of an element by their tags."""
    found: dict[str, Any] = {}
    for child in element.content:
        if isinstance(child, str):
            continue
        value = _value(child)
        if child.tag not in found:
            found[child.tag] = value
        elif isinstance(found[child.tag], list):
            found[child.tag].append(value)
        else:
            found[child.tag] = [found[child.tag], value]
    return found


def _value(element: Element) -> Any:
    """Gives the text of an element; where nothing but elements is in it, these."""
    texts = [part for part in element.content if isinstance(part, str)]
    if len(texts) < len(element.content) and not "".join(texts).strip():
        return _fields(element)
    return _all_text(element).strip()


def _all_text(element: Element) -> str:
    """Joins the text of an element and of what is marked up in it."""
    return "".join(part if isinstance(part, str) else _all_text(part) for part in element.content)


def _events(file: Path, shown: str) -> Iterator[Event]:
    """Yields what the parser meets, chunk by chunk.

    Raises:
        DataError: the file is not well-formed, has a DTD or is nested too deep.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    met: list[Event] = []
    depth = 0

    def start(tag: str, _: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise _wrong("the XML is nested too deep", shown, parser.CurrentLineNumber, f"at most {MAX_DEPTH} levels")
        met.append(("start", tag, parser.CurrentLineNumber))

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        met.append(("end", tag, parser.CurrentLineNumber))

    def doctype(*_: Any) -> None:
        why = "what it declares is not read, and entities can swell without bound"
        raise _wrong("the XML has a DTD", shown, parser.CurrentLineNumber, why, "remove <!DOCTYPE …> from the file")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = doctype
    parser.CharacterDataHandler = lambda text: met.append(("text", text, parser.CurrentLineNumber))
    with opened(file, shown) as stream:
        last = False
        while not last:
            chunk = stream.read(CHUNK_BYTES)
            last = not chunk
            try:
                parser.Parse(chunk, last)
            except (expat.ExpatError, LookupError, ValueError) as error:  # LookupError, ValueError: its encoding
                line = parser.CurrentLineNumber
                fix = f"xmllint --noout {shlex.quote(shown)}"
                raise _wrong("the XML is not well-formed", shown, line, str(error), fix) from None
            yield from met
            met.clear()


def _wrong(what: str, shown: str, line: int, why: str, fix: str = "") -> DataError:
    fix = fix or f"xmllint --format {shlex.quote(shown)} | head -40"
    return DataError(what, where=f"{shown}:{line}", why=why, fix=fix)
