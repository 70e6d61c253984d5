"""Lays pieces of text out in lines of a terminal's width; nothing is dropped, not even a space at a line's end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rich.cells import cell_len

from finetune.lens.stretches import Fate


@dataclass(frozen=True)
class Piece:
    """A stretch of a line in one style."""

    text: str
    below: str
    """What stands under it."""
    style: str
    fate: Fate
    width: int
    """Columns that it takes."""
    glued: bool = False
    """Whether no line may begin with it, unless it must."""


BREAK = Piece("\n", "", "", "context", 0)
"""Ends a line."""


def columns(pieces: Iterable[Piece], width: int) -> Iterator[list[Piece]]:
    """Fills lines piece by piece."""
    line: list[Piece] = []
    used = 0
    for piece in pieces:
        if line and (piece is BREAK or used + piece.width > width):
            yield line
            line, used = [], 0
        if piece is not BREAK:
            line.append(piece)
            used += piece.width
    if line:
        yield line


def flow(pieces: Iterable[Piece], width: int) -> Iterator[list[Piece]]:
    """Fills lines word by word; a word longer than a line is cut where the line ends."""
    line: list[Piece] = []
    used = 0
    for word in _words(pieces):
        if word == [BREAK]:
            yield line
            line, used = [], 0
            continue
        length = sum(piece.width for piece in word)
        if used + length > width and length <= width and line:
            yield line
            line, used = [], 0
        for piece in word:
            for part in _parts(piece, width - used, width):
                if used + part.width > width and line:
                    yield line
                    line, used = [], 0
                line.append(part)
                used += part.width
    if line:
        yield line


def _words(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Gathers what may not be torn apart; a break is a word of its own."""
    word: list[Piece] = []
    for piece in pieces:
        if word and (piece is BREAK or not piece.glued):
            yield word
            word = []
        if piece is BREAK:
            yield [BREAK]
        else:
            word.append(piece)
    if word:
        yield word


def _parts(piece: Piece, room: int, width: int) -> Iterator[Piece]:
    """Cuts a piece that is wider than a line."""
    if piece.width <= max(room, width):
        yield piece
        return
    text, used = "", 0
    for letter in piece.text:
        size = cell_len(letter)
        if text and used + size > room:
            yield replace(piece, text=text, width=used)
            text, used, room = "", 0, width
        text, used = text + letter, used + size
    yield replace(piece, text=text, width=used)
