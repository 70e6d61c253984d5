"""From ids to what can be shown: a token is a cell of its own, and the tokens of one character are a cell together.

A token holds bytes, and one of a Chinese character or of an emoji may hold a part of it only.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from finetune.data.vocabulary import Vocabulary
from finetune.errors import ArtifactError

ZERO_WIDTH_JOINER = "\u200d"
SKIN_TONES = range(0x1F3FB, 0x1F400)
FLAG_LETTERS = "".join(map(chr, range(0x1F1E6, 0x1F200)))
"""Of which two make a flag. Source: Unicode Standard Annex 29, rules GB9 to GB13, as far as fonts follow them."""


UNSEEN = ("Cc", "Cf", "Cs", "Co", "Zs", "Zl", "Zp")
"""Categories of characters that are obeyed rather than shown, or look like a plain space."""


@dataclass(frozen=True)
class Cell:
    """One token, or those that make one character together."""

    ids: tuple[int, ...]
    text: str
    control: bool = False
    """Whether it is a control token, which no text of the data can become."""


@dataclass(frozen=True)
class Reader:
    """Gives ids their texts, exactly: by the bytes of each token, not by decoding alone what only decodes together."""

    vocabulary: Vocabulary
    _seen: dict[int, Cell | None] = field(default_factory=dict)
    """The cell of each token that is whole by itself; None for the others."""

    @cached_property
    def control(self) -> dict[int, str]:
        """Each control token's id and its text."""
        return {i: token for token, i in self.vocabulary.control.items()}

    def bytes_of(self, i: int) -> bytes:
        """Gives the bytes that a token stands for.

        Raises:
            ArtifactError: the tokenizer does not spell bytes, as those of Qwen do.
        """
        if i in self.control:
            return self.control[i].encode()
        spelt = self.vocabulary.text.id_to_token(i) or ""
        try:
            return bytes(_BYTES[letter] for letter in spelt)
        except KeyError:
            why = f"its token {i} is {spelt!r}, which does not stand for bytes as GPT-2 spells them"
            what, fix = "the tokenizer is not one of Qwen3.5 or Qwen3.6", "put the base's own tokenizer.json back"
            raise ArtifactError(what, where="tokenizer.json", why=why, fix=fix) from None

    def cells(self, ids: Sequence[int]) -> list[Cell]:
        """Cuts ids into cells: in order, every id in one of them."""
        made: list[Cell] = []
        waiting: list[int] = []
        for i in ids:
            cell = self._alone(i) if not waiting else None
            if cell is None:
                waiting.append(i)
                cell = self._together(waiting)
                if cell is None:
                    continue
                waiting = []
            if made and not cell.text.isascii() and _is_one(made[-1], cell):
                cell = Cell(made[-1].ids + cell.ids, made.pop().text + cell.text)
            made.append(cell)
        if waiting:
            made.append(Cell(tuple(waiting), _as_bytes(b"".join(map(self.bytes_of, waiting)))))
        return made

    def _alone(self, i: int) -> Cell | None:
        if i not in self._seen:
            self._seen[i] = self._together([i])
        return self._seen[i]

    def _together(self, ids: list[int]) -> Cell | None:
        """Makes a cell of tokens; None where they end within a character."""
        data = b"".join(map(self.bytes_of, ids))
        try:
            return Cell(tuple(ids), data.decode(), len(ids) == 1 and ids[0] in self.control)
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data":
                return None
            return Cell(tuple(ids), _as_bytes(data))


def _spelling() -> dict[str, int]:
    """How byte-level tokenizers spell bytes: what can be printed as itself, the others as letters from 256 on.

    Source: Radford et al. 2019, GPT-2, its byte-level BPE; a test compares it with `tokenizers`.
    """
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _spelling()


def _as_bytes(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)


def _is_one(before: Cell, cell: Cell) -> bool:
    """Whether a reader sees one character in both: a letter and its accent, an emoji and its colour, a flag."""
    first, last = ord(cell.text[0]), before.text[-1]
    if before.control or last.isspace():
        return False
    letters = len(before.text) - len(before.text.rstrip(FLAG_LETTERS))
    flag = letters % 2 == 1 and cell.text[0] in FLAG_LETTERS
    joined = ZERO_WIDTH_JOINER in (last, cell.text[0])
    return flag or joined or first in SKIN_TONES or unicodedata.category(cell.text[0]).startswith("M")


def printable(text: str) -> str:
    """Makes visible what would be obeyed or not seen: a terminal's escapes, turns of direction, odd spaces.

    Line breaks, tabs and plain spaces stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_printable, text))


def _printable(letter: str) -> str:
    if letter in " \n\t" or letter == ZERO_WIDTH_JOINER or unicodedata.category(letter) not in UNSEEN:
        return letter
    number = ord(letter)
    if number < 0x20 or number == 0x7F:
        return chr(0x2421 if number == 0x7F else 0x2400 + number)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
