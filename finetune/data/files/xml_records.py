"""XML: the element that repeats nearest the root, and has two or more fields, is the record."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

from finetune.data.files.opening import opened
from finetune.data.files.records import MAX_RECORD_BYTES, Format, LeftOut, Raw
from finetune.data.files.xml_events import BROKEN, DTD, Event, WrongXml, xml_events
from finetune.errors import DataError

Path_ = tuple[str, ...]


@dataclass(frozen=True)
class Element:
    """An element while it is read: frozen but for what is put into it."""

    tag: str
    line: int
    attributes: dict[str, str]
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


def xml_records(file: Path, shown: str, _: Format) -> Iterator[Raw | LeftOut]:
    """Yields each record: its attributes, the tags of its children, and their texts.

    A child with children of its own is a dict, a tag that stands several times a list. Records of another place in the
    tree are left out, and counted.

    Raises:
        DataError: it is not well-formed, has a DTD, no element in it is a record, or one is too long.
    """
    wanted, others = _record_paths(file, shown)
    path: list[str] = []
    tree: list[Element] = []
    size = 0
    for event in _events(file, shown):
        size += len(event.told) + sum(map(len, event.attributes.values()))
        if tree and size > MAX_RECORD_BYTES:
            where = f"{tree[0].line}" + (f"  {tree[1].tag}" if len(tree) > 1 else "")
            raise _wrong("the record is too long for a row", shown, where, f"at most {MAX_RECORD_BYTES:,} bytes")
        if event.kind == "start":
            path.append(event.told)
            if tree or tuple(path) == wanted:
                element = Element(event.told, event.line, event.attributes)
                if tree:
                    tree[-1].content.append(element)
                tree.append(element)
        elif event.kind == "text":
            if tree:
                tree[-1].content.append(event.told)
        else:
            path.pop()
            if tree and len(tree) > 1:
                tree.pop()
            elif tree:
                record = tree.pop()
                yield Raw(record.line, _gathered(_attributes(record)) | _fields(record))
        size = size if tree else 0
    for other, count in others.items():
        why = f"they stand in {'/'.join(other)} of the XML, the records that are read in {'/'.join(wanted)}"
        yield from (LeftOut(why) for _ in range(count))


def _record_paths(file: Path, shown: str) -> tuple[Path_, dict[Path_, int]]:
    """Reads the file once to find the path of the tags that lead to its records, and the paths of others like them."""
    counts: dict[Path_, int] = {}
    path: list[str] = []
    named: list[set[str]] = []  # for each open element, the tags of its children that have text of their own
    has_text: list[bool] = []
    for event in _events(file, shown):
        if event.kind == "start":
            path.append(event.told)
            named.append(set())
            has_text.append(False)
        elif event.kind == "text":
            has_text[-1] = has_text[-1] or not event.told.isspace()
        else:
            if len(named.pop()) >= 2:
                counts[tuple(path)] = counts.get(tuple(path), 0) + 1
            path.pop()
            if has_text.pop() and named:
                named[-1].add(event.told)
    repeated = [path for path, count in counts.items() if count > 1] or (list(counts) if len(counts) == 1 else [])
    if not repeated:
        what, why = "no element of the XML is a record", "a record repeats, and has two or more children with text"
        raise _wrong(what, shown, 1, why)
    nearest = [path for path in repeated if len(path) == min(map(len, repeated))]
    if len(nearest) > 1:
        what = "the XML holds several kinds of records"
        raise _wrong(what, shown, 1, f"{', '.join(path[-1] for path in nearest[:4])} stand at the same depth")
    (wanted,) = nearest
    like_it = sorted((path for path in counts if path in repeated or path[-1] == wanted[-1]), key=len)
    apart: list[Path_] = [wanted]
    for place in like_it:
        if not any(place[: len(other)] == other for other in apart):  # what is inside a record is read or left with it
            apart.append(place)
    return wanted, {place: counts[place] for place in apart[1:]}


def _attributes(element: Element, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the attributes of a record as `@id`, those of what is in it as `question@id` or `table.row@id`."""
    for name, value in element.attributes.items():
        if name != "xmlns" and not name.startswith("xmlns:"):
            yield f"{path}@{name}", value
    for child in element.content:
        if isinstance(child, Element):
            yield from _attributes(child, f"{path}.{child.tag}" if path else child.tag)


def _fields(element: Element) -> dict[str, Any]:
    """Gives the children of an element by their tags."""
    return _gathered((child.tag, _value(child)) for child in element.content if isinstance(child, Element))


def _gathered(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Gives values by their names; of a name that stands several times, the list of them."""
    found: dict[str, list[Any]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return {name: values if len(values) > 1 else values[0] for name, values in found.items()}


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
    """Yields what the parser meets.

    Raises:
        DataError: the file cannot be read, or as `xml_events` refuses it.
    """
    fixes = {DTD: "remove <!DOCTYPE …> from the file", BROKEN: f"xmllint --noout {shlex.quote(shown)}"}
    with opened(file, shown) as stream:
        try:
            yield from xml_events(stream)
        except WrongXml as error:
            raise _wrong(error.what, shown, error.line, error.why, fixes.get(error.what, "")) from None


def _wrong(what: str, shown: str, line: int | str, why: str, fix: str = "") -> DataError:
    fix = fix or f"xmllint --format {shlex.quote(shown)} | head -40"
    return DataError(what, where=f"{shown}:{line}", why=why, fix=fix)
