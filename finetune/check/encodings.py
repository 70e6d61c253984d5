"""Text that came through the wrong encoding, and characters that nobody sees."""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetune.check.finding import Finding, snippet
from finetune.check.saying import Said

_CP1252 = {bytes([i]).decode("cp1252"): i for i in range(0x80, 0x100) if i not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)}
_BYTES = _CP1252 | {chr(i): i for i in range(0x80, 0x100)}
"""What a byte of UTF-8 becomes where it is read as cp1252 or Latin-1."""

_LEADS = re.escape("".join(c for c, i in _BYTES.items() if 0xC2 <= i <= 0xF4))
_TAILS = re.escape("".join(c for c, i in _BYTES.items() if i < 0xC0))
_STRETCH = re.compile(f"(?:[{_LEADS}][{_TAILS}]{{1,3}})+")

CERTAIN = re.compile(
    "[\u00a0-\u00ff\u0152\u0153\u0160\u0161\u017d\u017e\u2010-\u203a\u20ac\u2122]|[\u0370-\u04ff\u3000-\u9fff\uac00-\ud7af]{2}"
)
"""What a repaired stretch must hold: letters of Western languages, punctuation, or two letters of another script."""

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_INVISIBLE = re.compile(
    "[\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069\u00ad\U000e0020-\U000e007e]"
    "|(?<=[ -\u024f])[\u200c\u200d](?=[ -\u024f])"
)
"""Joiners are letters' own in Persian and Hindi, and in emoji; between Latin letters they are nobody's."""

_FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007f]+")
"""The flags of England, Scotland and Wales are spelt with tags."""


def wrong_characters(place: str, text: Said) -> Iterator[Finding]:
    """Yields what is wrong with the characters of a text; each kind once."""
    if text.text.isascii() and text.text.isprintable():
        return
    told = text.text
    for finding in _mojibake(place, text):
        yield finding
        told = _STRETCH.sub(lambda found: repair(found.group()) or found.group(), told)
    if "\ufffd" in told:
        at = told.index("\ufffd")
        what, why = (
            f"{told.count(chr(0xFFFD))} characters are lost (U+FFFD)",
            "the file was converted from a wrong encoding",
        )
        fix = "convert the source anew, from its own encoding: iconv -f cp1252 -t utf-8"
        yield Finding("replacement-character", "warning", place, text.field, what, why, fix, snippet(told, at, at + 1))
    for code, pattern, what in (
        ("control-character", _CONTROL, "control character"),
        ("lone-surrogate", _SURROGATE, "half of a character"),
        ("invisible-character", _INVISIBLE, "invisible character"),
    ):
        found = list(pattern.finditer(_FLAG.sub("", told)))
        if found:
            first = found[0]
            counted = f"{what} U+{ord(first.group()):04X} stands in the text" + _more(len(found))
            why = "the model learns to write it, and nobody sees it"
            shown = snippet(_FLAG.sub("", told), *first.span())
            yield Finding(code, "warning", place, text.field, counted, why, "remove it", shown)


def _more(count: int) -> str:
    return f", and {count - 1} more" if count > 1 else ""


def _mojibake(place: str, text: Said) -> Iterator[Finding]:
    """Tells of stretches that are UTF-8 read as cp1252 or Latin-1; certain ones, or several."""
    repaired = [(found, mended) for found in _STRETCH.finditer(text.text) if (mended := repair(found.group()))]
    if not repaired or not (len(repaired) > 2 or any(_is_certain(*each) for each in repaired)):
        return
    first, mended = repaired[0]
    what = f"{first.group()} was {mended}, read in the wrong encoding" + _more(len(repaired))
    around = _STRETCH.sub(lambda found: repair(found.group()) or found.group(), text.text)
    fix = f"write {snippet(around, first.start(), first.start() + len(mended))}"
    why = "UTF-8 was read as cp1252 or Latin-1"
    yield Finding("mojibake", "warning", place, text.field, what, why, fix, snippet(text.text, *first.span()))


def _is_certain(found: re.Match[str], mended: str) -> bool:
    return found.group()[0] in "ÃÂâðÐÑæåçä" and CERTAIN.search(mended) is not None and mended.isprintable()


def repair(stretch: str) -> str:
    """Reads a stretch as the UTF-8 that it was, or gives nothing."""
    try:
        return bytes(_BYTES[c] for c in stretch).decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        return ""
