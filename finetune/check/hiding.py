"""Hides what is private in a text before a piece of it is shown: a window would cut it, and half is not known again."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from finetune.check.patterns import matches

FILLER = "\ufdd0"
"""Stands for each character that is hidden; Unicode gives it to nobody."""

_FOUND: ContextVar[Collection[str]] = ContextVar("found", default=())


@contextmanager
def hiding(found: Collection[str]) -> Iterator[None]:
    """Hides these stretches too, as long as it lasts: names of people, which no pattern knows."""
    before = _FOUND.set(found)
    try:
        yield
    finally:
        _FOUND.reset(before)


def hidden(text: str) -> str:
    """Gives a text of the same length, in which of all that is private only the beginning can be read."""
    spans = [found.span("value" if "value" in pattern.regex.groupindex else 0) for pattern, found in matches(text)]
    for stretch in _FOUND.get():
        at = text.find(stretch)
        while at >= 0:
            spans.append((at, at + len(stretch)))
            at = text.find(stretch, at + 1)
    for start, end in spans:
        kept = start + seen_of(text[start:end])
        text = text[:kept] + FILLER * (end - kept) + text[end:]
    return text


def closed(text: str) -> str:
    """Draws each hidden stretch as one sign, when nothing is measured in the text any more."""
    return re.sub(f"{FILLER}+", "…", text)


def seen_of(stretch: str) -> int:
    """Says how many of its characters are shown: two, or one of what has hardly more, as a Chinese name."""
    return 2 if len(stretch) > 4 else 1
