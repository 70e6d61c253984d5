"""Whether an answer rests on its passage: the quote stands there, so do its numbers, and so do most of its words.

Texts are compared as words without case, punctuation, marks of Markdown and line ends; a Chinese character is a word.
None of this proves that an answer is true; it drops what is plainly made up.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise

FEWEST_WORDS = 3
"""Of a quote: fewer stand in any text."""

MOST_WRONG = 0.1
"""Share of a quote's words that may be missing, added or changed; a quote of fewer than ten must be exact."""

FEWEST_SHARED = 0.4
"""Share of an answer's words that must stand in the passage.

Measured on the 1,000 abstracts of PubMedQA, whose answers people wrote in words of their own: 87.2 % of the answers
stand by this bound with their abstract, and 0.6 % with another one.
"""

STEM, SHORT = 5, 4
"""Words are compared by so many first letters, those of at least so many letters."""

_WORD = re.compile(
    r"\]\([^)\s]*\)|([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|(?:[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|-\n(?=[a-zß-ÿ]))+)"
)
_NUMBER = re.compile(r"\d(?:[.,'’\u00a0\u202f]?\d)*")
_SPACED = re.compile(r"(?<!\d)\d{1,3}(?: \d{3})+(?!\d)")
_ENUMERATION = re.compile(r"^\s*\d{1,2}[.)]\s", re.MULTILINE)
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True)
class Passage:
    """A text that answers are compared with, made ready once."""

    words: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    """Where each word stands in the text."""
    numbers: frozenset[str]
    stems: frozenset[str]


def passage(text: str, above: str = "") -> Passage:
    """Makes a text ready.

    Args:
        text: where quotes must stand.
        above: its headings, whose words and numbers count too.
    """
    found = [match for match in _WORD.finditer(text) if match[1]]
    words = tuple(_plain(match[1]) for match in found)
    spaced = [_number(match[0].replace(" ", "")) for match in _SPACED.finditer(text)]
    numbers = frozenset([*numbers_of(text), *numbers_of(above), *spaced])
    return Passage(
        words, tuple(match.span() for match in found), numbers, frozenset(_stems([*words, *words_of(above)]))
    )


def words_of(text: str) -> list[str]:
    """Gives the words of a text as they are compared."""
    return [_plain(match[1]) for match in _WORD.finditer(text) if match[1]]


def numbers_of(text: str) -> set[str]:
    """Gives the numbers of a text, however they group their digits."""
    return {_number(match[0]) for match in _NUMBER.finditer(unicodedata.normalize("NFKC", text))}


def find_quote(quote: str, within: Passage) -> tuple[int, int] | None:
    """Finds where a quote stands in the text of a passage; None if it does not."""
    wanted, words = words_of(quote), within.words
    if len(wanted) < FEWEST_WORDS:
        return None
    size = len(wanted)
    for begin in (i for i in range(len(words) - size + 1) if words[i] == wanted[0]):
        if list(words[begin : begin + size]) == wanted:
            return within.spans[begin][0], within.spans[begin + size - 1][1]
    begin, end = _closest(wanted, words)
    return (within.spans[begin][0], within.spans[end - 1][1]) if end else None


def made_up_numbers(answer: str, within: Passage) -> list[str]:
    """Lists the numbers of an answer that its passage does not know; those that count its lines are none."""
    return sorted(numbers_of(_ENUMERATION.sub("", answer)) - within.numbers)


def shared_words(answer: str, within: Passage) -> float:
    """Tells which share of an answer's words stands in its passage; 1 for an answer of short words alone."""
    stems = _stems(words_of(answer))
    return sum(stem in within.stems for stem in stems) / len(stems) if stems else 1.0


def _closest(wanted: Sequence[str], words: Sequence[str]) -> tuple[int, int]:
    """Finds the stretch of words that a quote differs from least; (0, 0) if it differs too much everywhere."""
    size = len(wanted)
    allowed = int(size * MOST_WRONG)
    if not allowed:
        return 0, 0
    counts = Counter(wanted)
    best = (allowed + 1, 0, 0)
    for begin in range(max(1, len(words) - size + 1)):
        window = words[begin : begin + size]
        if size - (counts & Counter(window)).total() > allowed:
            continue
        blocks = SequenceMatcher(None, wanted, window, autojunk=False).get_matching_blocks()
        wrong = size - sum(block.size for block in blocks)
        best = min(best, (wrong, begin, begin + len(window)))
    return best[1:] if best[0] <= allowed else (0, 0)


def _stems(words: Sequence[str]) -> list[str]:
    """Gives what is compared of words: the beginnings of long ones, and Chinese characters two by two."""
    long = [word[:STEM] for word in words if len(word) >= SHORT and not word[0].isdigit()]
    return long + [a + b for a, b in pairwise(words) if _CJK.match(a) and _CJK.match(b)]


def _plain(word: str) -> str:
    return unicodedata.normalize("NFKC", word).casefold().replace("-\n", "")


def _number(digits: str) -> str:
    """Spells a number without marks between its thousands, and with a point for its fraction."""
    *groups, last = re.split(r"[.,'’\u00a0\u202f]", digits)
    if not groups:
        return last
    return "".join(groups) + last if len(last) == 3 else f"{''.join(groups)}.{last}"
