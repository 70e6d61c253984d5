"""Which language a text is in, by its script and, for Latin letters, by its commonest words. A guess only."""

from __future__ import annotations

import re

import numpy as np

SCRIPTS = (
    (0x0041, "Latin"), (0x0250, ""), (0x0370, "Greek"), (0x0400, "Cyrillic"), (0x0530, "Armenian"), (0x0590, "Hebrew"),
    (0x0600, "Arabic"), (0x0700, ""), (0x0900, "Devanagari"), (0x0980, "Bengali"), (0x0A00, "other"),
    (0x0B80, "Tamil"), (0x0C00, "Telugu"), (0x0C80, "other"), (0x0E00, "Thai"), (0x0E80, "other"), (0x10A0, "Georgian"),
    (0x1100, "Korean"), (0x1200, "other"), (0x1E00, "Latin"), (0x1F00, "Greek"), (0x2000, ""), (0x3040, "Japanese"),
    (0x3100, "Chinese"), (0x3130, "Korean"), (0x3190, ""), (0x3400, "Chinese"), (0xA000, "other"), (0xAC00, "Korean"),
    (0xD7B0, ""), (0xF900, "Chinese"), (0xFB00, ""), (0x20000, "Chinese"), (0x40000, ""),
)  # fmt: skip
"""First code point of each block of letters and its script, if it is letters. Source: Unicode 16, Blocks.txt."""

_STARTS = np.array([start for start, _ in SCRIPTS])
_NAMES = sorted({name for _, name in SCRIPTS})
_INDEX = np.array([_NAMES.index("")] + [_NAMES.index(name) for _, name in SCRIPTS])

STOP_WORDS = {
    "English": "the of and to in is that it for was with are this be have you what how which can not i my your why",
    "German": "der die das und ist nicht ein eine zu den mit von auf für sich des dem im auch wird sie",
    "French": "le la les des est et une dans pour que qui pas sur au du avec ce sont vous il nous",
    "Spanish": "el la los las de que y en un una por con para es no se del al lo como está",
    "Italian": "il di che è la per un una non sono con del della si nel gli le da come anche più",
    "Portuguese": "o os de que e em um uma por com para é não se da na como são dos das ao pelo mais foi",
    "Dutch": "de het een van en is dat op te in voor niet met zijn aan er om ook als bij wordt",
}
"""The commonest words of seven languages."""

_STOP = {name: frozenset(told.split()) for name, told in STOP_WORDS.items()}

UNTOLD = ("Latin letters", "no letters")
"""What is said of a text whose language cannot be told."""

LEAST_WORDS = 2
"""Of a language, that a text must have to be taken for it."""

READ = 2_000
"""Characters of a text that are looked at."""


def scripts(text: str) -> dict[str, int]:
    """Counts the letters of each script; where all are Latin, whether there are any."""
    told = text[:READ]
    if told.isascii():
        return {"Latin": 1} if re.search("[A-Za-z]", told) else {}
    points = np.frombuffer(told.encode("utf-32-le", "surrogatepass"), np.uint32)
    points = points[[c.isalpha() for c in told]]
    counts = np.bincount(_INDEX[np.searchsorted(_STARTS, points, side="right")], minlength=len(_NAMES))
    return {name: int(count) for name, count in zip(_NAMES, counts, strict=True) if count and name}


def language(text: str) -> str:
    """Guesses the language of a text: one of seven by their words, else what its script tells."""
    counts = scripts(text)
    if not counts:
        return "no letters"
    if (
        counts.get("Japanese", 0) > 0.1 * counts.get("Chinese", 0)
        and counts.get("Japanese", 0) + counts.get("Chinese", 0) > sum(counts.values()) / 2
    ):
        return "Japanese"  # which writes Han too
    script = max(counts, key=lambda name: counts[name])
    if script != "Latin":
        return script
    words = re.findall(r"[^\W\d_]+", text[:READ].lower())
    hits = {name: sum(word in stop for word in words) for name, stop in _STOP.items()}
    best = max(hits, key=lambda name: hits[name])
    return best if hits[best] >= LEAST_WORDS else "Latin letters"
