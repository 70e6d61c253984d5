"""Texts as units that can be compared: words, numbers, and each character of scripts that write no spaces.

Case, width, spaces and punctuation are left out. A number keeps its sign, its point and the operators between its
digits: 1.5 is not 15, and 5 - 3 is not 5 * 3.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Units = npt.NDArray[np.uint32]
Hashes = npt.NDArray[np.uint64]

NO_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Thai, Lao, Burmese, Khmer, kana and Han: characters are units there, since words cannot be told apart."""

WORD_SHINGLE, CHARACTER_SHINGLE = 3, 5
"""Units of a shingle, where most units are words and where most are characters."""

_DIGITS = re.compile(r"\d+")
_NO_SPACES = re.compile(f"[{NO_SPACES}]")


@cache
def _units() -> re.Pattern[str]:
    """Finds units. The marks of a script belong to its words; `\\w` alone would lose the vowels of Hindi."""
    marks = "".join(chr(c) for c in range(0x300, 0x20000) if unicodedata.category(chr(c)) in ("Mn", "Mc"))
    number = r"(?:(?<![^\s(=])[-+−])?\d+(?:\s?[.,:/*+^<>=−×÷-]\s?\d+)*"
    letters = rf"[^\W\d_{NO_SPACES}]+"
    return re.compile(rf"{letters}(?:[{marks}]+(?:{letters})?)*|[{NO_SPACES}][{marks}]*|{number}")


def units(text: str) -> list[str]:
    """Cuts a text into units."""
    found = _units().findall(unicodedata.normalize("NFKC", text).casefold())
    return [unit.replace(" ", "") for unit in found] if " " in "".join(found) else found


def without_signs(words: Sequence[str]) -> list[str]:
    """Takes numbers apart too: 1.5 becomes 1 and 5. In a long text that tells no two apart."""
    return [part for word in words for part in (_DIGITS.findall(word) if not word.isalnum() else (word,)) or (word,)]


def hashed(words: Sequence[str]) -> Units:
    """Hashes each unit, in every process alike."""
    return np.fromiter((zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in words), np.uint32, len(words))


def shingle_size(words: Sequence[str]) -> int:
    """Chooses how many units make a shingle."""
    if all(map(str.isascii, words)):
        return WORD_SHINGLE
    characters = sum(1 for word in words if _NO_SPACES.match(word))
    return CHARACTER_SHINGLE if 2 * characters > len(words) else WORD_SHINGLE


def runs(row: Units, size: int) -> Hashes:
    """Hashes each run of `size` units; of a shorter row each unit."""
    size = size if len(row) >= size else 1
    count = len(row) - size + 1
    told: Any = np.full(max(count, 0), size, np.uint64)
    for i in range(size):
        told = mixed(told * np.uint64(0x9E3779B97F4A7C15) + row[i : i + count].astype(np.uint64))
    return np.asarray(told, np.uint64)


def mixed(values: Any) -> Any:
    """Spreads 64 bits over all 64. Source: Steele, Lea, Flood 2014, doi:10.1145/2660193.2660195, its finaliser."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
