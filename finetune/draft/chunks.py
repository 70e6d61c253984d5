"""Cuts a document into chunks: at headings and paragraphs, else between sentences, and in one only if it is longer.

Every character of the text is in exactly one chunk.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from finetune.draft.document import Document

LATIN_TOKENS, CJK_TOKENS = 1 / 4, 1 / 1.6
"""Tokens that a character makes: estimates, for the teacher's tokenizer is not here.

Source: docs/draft.md compares them with Qwen's tokenizer.
"""

FULL_ENOUGH = 1 / 4
"""Share of a chunk's size from which on a heading begins the next one; shorter sections share a chunk."""

FEWEST_TOKENS = 12
"""Of a chunk that is asked about; shorter ones are headings without a text."""

_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\u3000-\u303f]")
_ABBREVIATED = re.compile(
    r"(?:\b(?:[A-Za-z]|Dr|Mr|Mrs|Ms|Prof|St|No|Nr|Art|Abs|Fig|Abb|vs|cf|vgl|bzw|ca|etc|usw|Inc|Ltd|Co|e\.g|i\.e))\.$"
)
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’»)\]]*\s+(?=[\"'“„«(\[]*[^\Wa-zß-ÿ_])|[。！？；]+[”’」』）]*\s*")


@dataclass(frozen=True)
class Chunk:
    """A part of a document that one question to the teacher is about."""

    document: Document
    start: int
    """Where it begins in the document's text."""
    text: str

    @property
    def heading(self) -> tuple[str, ...]:
        """The headings above its first word that is no heading."""
        return self.document.path(self.start + min(_words_begin(self), len(self.text) - 1))

    @property
    def first(self) -> int:
        """The line or page of its first character that is not blank."""
        blank = len(self.text) - len(self.text.lstrip())
        return self.document.place(self.start + min(blank, max(0, len(self.text.rstrip()) - 1)))

    @property
    def last(self) -> int:
        """The line or page of its last character that is not blank."""
        return self.document.place(max(self.start, self.start + len(self.text.rstrip()) - 1))

    @property
    def is_asked(self) -> bool:
        """Whether it says enough to be asked about."""
        return tokens(self.text[_words_begin(self) :]) >= FEWEST_TOKENS


def tokens(text: str) -> float:
    """Estimates how many tokens a text makes."""
    cjk = len(_CJK.findall(text))
    return cjk * CJK_TOKENS + (len(text) - cjk) * LATIN_TOKENS


def chunks_of(document: Document, size: int) -> list[Chunk]:
    """Cuts a document.

    Args:
        document: what is cut.
        size: the most tokens of a chunk, by our estimate.
    """
    chunks: list[Chunk] = []
    gathered: list[str] = []
    gathered_tokens, start, offset = 0.0, 0, 0
    headings = {heading.start for heading in document.headings}

    def close() -> None:
        nonlocal gathered_tokens, start
        if gathered:
            chunks.append(Chunk(document, start, "".join(gathered)))
            gathered.clear()
        gathered_tokens, start = 0.0, offset

    for piece in _pieces(document, size):
        piece_tokens = tokens(piece)
        begins = offset in headings and gathered_tokens >= size * FULL_ENOUGH
        if begins or gathered_tokens + piece_tokens > size:
            close()
        gathered.append(piece)
        gathered_tokens += piece_tokens
        offset += len(piece)
    close()
    return chunks


def _pieces(document: Document, size: int) -> Iterator[str]:
    """Yields what is kept together: a heading with the paragraph below it, a paragraph, or parts of a long one."""
    headings = [heading.start for heading in document.headings]
    sections = [0, *(start for start in headings if start), len(document.text)]
    for start, end in pairwise(sections):
        paragraphs = list(_paragraphs(document.text[start:end]))
        if start in headings and len(paragraphs) > 1 and tokens(paragraphs[0] + paragraphs[1]) <= size:
            paragraphs[:2] = [paragraphs[0] + paragraphs[1]]
        for paragraph in paragraphs:
            yield from _parts(paragraph, size, SPLITTERS)


def _parts(text: str, size: int, splitters: tuple[Callable[[str], Iterator[str]], ...]) -> Iterator[str]:
    """Yields a text whole if it fits, else its parts, by the first splitter that makes them short enough."""
    if tokens(text) <= size:
        yield text
    elif splitters:
        for part in splitters[0](text):
            yield from _parts(part, size, splitters[1:])
    else:
        step = max(1, int(size / CJK_TOKENS))
        yield from (text[i : i + step] for i in range(0, len(text), step))


def _paragraphs(text: str) -> Iterator[str]:
    """Cuts after blank lines, but never within a fence of code."""
    fence, gathered = "", ""
    blank = False
    for line in re.findall(r"[^\n]*\n|[^\n]+", text):
        if blank and line.strip() and not fence:
            yield gathered
            gathered = ""
        mark = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence):
            fence = ""
        gathered += line
        blank = not line.strip()
    if gathered:
        yield gathered


def _sentences(text: str) -> Iterator[str]:
    begun = 0
    for found in _SENTENCE_END.finditer(text):
        if not _ABBREVIATED.search(text, max(0, found.start() - 8), found.start() + 1):
            yield text[begun : found.end()]
            begun = found.end()
    if begun < len(text):
        yield text[begun:]


def _lines(text: str) -> Iterator[str]:
    yield from re.findall(r"[^\n]*\n|[^\n]+", text)


def _words(text: str) -> Iterator[str]:
    yield from re.findall(r"\s*\S+|\s+", text)


SPLITTERS = (_sentences, _lines, _words)


def _words_begin(chunk: Chunk) -> int:
    """Tells where the first line of a chunk begins that is neither blank nor a heading; its end if there is none."""
    headings = {heading.start for heading in chunk.document.headings}
    offset = 0
    for line in _lines(chunk.text):
        if line.strip() and chunk.start + offset not in headings and not re.fullmatch(r"\s*(=+|-+)\s*", line):
            return offset
        offset += len(line)
    return offset
