"""What an XML parser meets in a stream, piece by piece and within bounds.

The standard library's expat does the parsing. What makes XML unsafe to read are entities, and these are declared in a
DTD alone: a stream with one is refused before any entity can be.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, NamedTuple
from xml.parsers import expat

from finetune.data.files.opening import CHUNK_BYTES
from finetune.data.files.records import MAX_RECORD_BYTES

MAX_DEPTH = 64

DTD = "the XML has a DTD"
BROKEN = "the XML is not well-formed"

NONE: dict[str, str] = {}


class Event(NamedTuple):
    """A tag that opens, a text, or a tag that closes; a tuple, since there are millions."""

    kind: str
    """`start`, `text` or `end`."""
    told: str
    """The tag, or the characters."""
    line: int
    attributes: dict[str, str]


class WrongXml(Exception):
    """Says what is wrong with a stream of XML, why, and in which line."""

    def __init__(self, what: str, why: str, line: int) -> None:
        super().__init__(what)
        self.what, self.why, self.line = what, why, line


def xml_events(stream: IO[bytes]) -> Iterator[Event]:
    """Yields what the parser meets, chunk by chunk.

    Raises:
        WrongXml: it is not well-formed, has a DTD, is nested too deep, or has a tag of more bytes than a row.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    met: list[Event] = []
    depth = fed = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise WrongXml("the XML is nested too deep", f"at most {MAX_DEPTH} levels", parser.CurrentLineNumber)
        met.append(Event("start", tag, parser.CurrentLineNumber, attributes))

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        met.append(Event("end", tag, parser.CurrentLineNumber, NONE))

    def doctype(*_: object) -> None:
        why = "what it declares is not read, and entities can swell without bound"
        raise WrongXml(DTD, why, parser.CurrentLineNumber)

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = doctype
    parser.CharacterDataHandler = lambda text: met.append(Event("text", text, parser.CurrentLineNumber, NONE))
    last = False
    while not last:
        chunk = stream.read(CHUNK_BYTES)
        last, fed = not chunk, fed + len(chunk)
        try:
            parser.Parse(chunk, last)
        except (expat.ExpatError, LookupError, ValueError) as error:  # LookupError, ValueError: its encoding
            raise WrongXml(BROKEN, str(error), parser.CurrentLineNumber) from None
        yield from met
        met.clear()
        if fed - max(0, parser.CurrentByteIndex) > MAX_RECORD_BYTES + CHUNK_BYTES:  # it waits for the end of a tag
            raise WrongXml("a tag is too long for a row", f"{MAX_RECORD_BYTES:,} bytes", parser.CurrentLineNumber)
