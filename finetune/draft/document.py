"""What a document is once it was read: its text, its headings, and on which line or page each part of it stood."""

from __future__ import annotations

import re
import shlex
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

from finetune.recipe.encodings import guess_encoding


@dataclass(frozen=True)
class Heading:
    """A heading, and where its line begins in the text."""

    start: int
    level: int
    """1 is the highest."""
    title: str


@dataclass(frozen=True)
class Document:
    """A text, and how to find a part of it again."""

    file: str
    """As the user typed it, or as it lies in the folder that the user typed."""
    text: str
    headings: tuple[Heading, ...] = ()
    unit: str = "lines"
    """What `numbers` count: lines or pages."""
    starts: tuple[int, ...] = (0,)
    """Where in the text a line or page begins, ascending, the first at 0."""
    numbers: tuple[int, ...] = (1,)
    """Which line or page of the file that is."""
    remark: str = ""
    """What the user should know of how it was read."""

    def place(self, offset: int) -> int:
        """Tells on which line or page of the file a character stands."""
        return self.numbers[bisect_right(self.starts, offset) - 1]

    def path(self, offset: int) -> tuple[str, ...]:
        """Tells the titles of the headings above a character, the highest first."""
        path: list[Heading] = []
        for heading in self.headings:
            if heading.start > offset:
                break
            path = [above for above in path if above.level < heading.level] + [heading]
        return tuple(heading.title for heading in path)


class Unreadable(Exception):
    """Carries one Problem out of a reader."""

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.fix = what, why, fix


def decoded(raw: bytes, file: Path) -> str:
    """Decodes text that should be UTF-8; line ends become single.

    Raises:
        Unreadable: it is not UTF-8, or no text at all.
    """
    if raw.startswith(b"PK\3\4"):
        target = shlex.quote(str(file.with_suffix(".md")))
        raise Unreadable(
            "this is no text", "it is a zip file, as .docx are", f"pandoc {shlex.quote(str(file))} -o {target}"
        )
    try:
        text = raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        name, fixed = shlex.quote(str(file)), shlex.quote(str(file.with_suffix(f".utf8{file.suffix}")))
        why = f"byte {error.start} is 0x{raw[error.start]:02x}"
        fix = f"iconv -f {guess_encoding(raw)} -t utf-8 {name} > {fixed}"
        raise Unreadable("the document is not UTF-8", why, fix) from None
    if "\0" in text:
        why = f"byte {text.index(chr(0))} is NUL"
        raise Unreadable("this is no text", why, f"file {shlex.quote(str(file))}")
    return re.sub(r"\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", "\n", text)
