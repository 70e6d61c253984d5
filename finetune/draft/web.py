"""Reads HTML: the text of the page's main part, a block of it a paragraph, with the line where each block stood.

Beautiful Soup with Python's own parser is taken because it is pure Python and knows a tag's line; the faster
selectolax and the bolder trafilatura do not tell lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.draft.document import Document, Heading, Unreadable, decoded
from finetune.errors import OutsideError

if TYPE_CHECKING:
    from bs4 import PageElement, Tag

INSTALL = "pip install 'finetune-proven[draft]'"

SILENT = frozenset(
    ("script", "style", "noscript", "template", "svg", "math", "head", "nav", "footer", "aside", "form", "button")
)
"""Tags whose text is no part of what the page says."""

BLOCKS = frozenset(
    (
        *("address", "article", "blockquote", "body", "caption", "center", "dd", "details", "div", "dl", "dt"),
        *("fieldset", "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hgroup"),
        *("hr", "html", "li", "main", "ol", "p", "pre", "section", "summary", "table", "tbody"),
        *("tfoot", "thead", "tr", "ul"),
    )
)
"""Tags that begin a line of their own."""


@dataclass
class _Written:
    """The text so far."""

    parts: list[str] = field(default_factory=list)
    length: int = 0
    headings: list[Heading] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)


@dataclass
class _Block:
    """A block that is being read."""

    tag: str
    line: int
    words: list[str] = field(default_factory=list)


def web(file: Path, raw: bytes) -> Document:
    """Reads a page.

    Raises:
        OutsideError: Beautiful Soup is missing.
        Unreadable: the page is neither UTF-8 nor what it says that it is.
    """
    try:
        from bs4 import BeautifulSoup
    except ImportError as error:
        why = "Beautiful Soup reads HTML"
        raise OutsideError("a package is missing", where=str(file), why=why, fix=INSTALL) from error
    soup = BeautifulSoup(_text(raw, file), "html.parser")
    main = soup.find_all("main")
    written = _Written()
    for block in _blocks(main[0] if len(main) == 1 else soup.body or soup):
        _write(written, block)
    places = (tuple(written.starts), tuple(written.numbers)) if written.starts else ((0,), (1,))
    return Document(str(file), "".join(written.parts), tuple(written.headings), "lines", *places)


def _text(raw: bytes, file: Path) -> str:
    """Decodes a page: UTF-8, or the encoding that it declares."""
    try:
        return decoded(raw, file)
    except Unreadable:
        declared = re.search(rb"<meta[^>]+charset=[\"']?([\w-]+)", raw[:4096], re.IGNORECASE)
        if declared is None or b"\0" in raw:
            raise
        try:
            return re.sub(r"\r\n?", "\n", raw.decode(declared[1].decode()))
        except (LookupError, UnicodeDecodeError):
            raise Unreadable(
                "the page is not in the encoding that it names", f"it names {declared[1].decode()}"
            ) from None


def _blocks(root: Tag) -> Iterator[_Block]:
    """Yields the blocks of text in the order of the page; without recursion, for pages may be nested deep."""
    from bs4 import NavigableString, Tag
    from bs4.element import PreformattedString

    block, within = _Block("p", root.sourceline or 1), ["p"]
    todo: list[PageElement | None] = [root]
    while todo:
        node = todo.pop()
        if node is None:  # the end of a block; what follows belongs to the block around
            yield block
            within.pop()
            block = _Block(within[-1], block.line)
        elif isinstance(node, Tag) and node.name not in SILENT:
            if node.name in BLOCKS:
                yield block
                within.append(node.name)
                block = _Block(node.name, node.sourceline or block.line)
                todo.append(None)
            elif node.name in ("td", "th") and block.words:
                block.words.append(" | ")
            elif node.name == "br":
                block.words.append("\n")
            todo += reversed(node.contents)
        elif isinstance(node, NavigableString) and not isinstance(node, PreformattedString):  # a comment is one
            block.words.append(str(node))
    yield block


def _write(written: _Written, block: _Block) -> None:
    """Sets a block that is not empty: a heading as Markdown has it, an item after a dash."""
    text = "".join(block.words)
    text = text.strip("\n").rstrip() if block.tag == "pre" else " ".join(text.split())
    if not text:
        return
    written.starts.append(written.length)
    written.numbers.append(max(block.line, *written.numbers[-1:], 1))
    if re.fullmatch("h[1-6]", block.tag):
        level = int(block.tag[1])
        written.headings.append(Heading(written.length, level, text))
        text = f"{'#' * level} {text}"
    text = f"- {text}\n" if block.tag == "li" else f"{text}\n" if block.tag == "tr" else f"{text}\n\n"
    written.parts.append(text)
    written.length += len(text)
