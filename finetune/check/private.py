"""Personal data and secrets in rows, by patterns that prove what they found.

What nobody owns is not told: addresses at example.com and other reserved names (RFC 2606), telephone numbers 555-01xx,
networks set aside for documents or private use, and the numbers of manuals. Names of people are looked for only where
pipelines are named (finetune/check/presidio.py); the definitions of tools are not searched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from finetune.check.finding import Finding
from finetune.check.patterns import PATTERNS, Pattern, matches
from finetune.check.saying import Said, said
from finetune.data import Row

MOST_FRAMES = 100_000
"""System prompts that are remembered: what stands in one is told once, however many rows share it."""


class Frames:
    """System prompts that were seen: what many rows share is told once."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def again(self, text: Said) -> bool:
        """Tells whether a text is a system prompt that stood in an earlier row."""
        if text.role != "system":
            return False
        if hash(text.text) in self._seen:
            return True
        if len(self._seen) < MOST_FRAMES:
            self._seen.add(hash(text.text))
        return False


class Private:
    """Sees rows in any order; what many rows share as their system prompt is told once."""

    def __init__(self) -> None:
        self._frames = Frames()

    def see(self, row: Row) -> Iterator[Finding]:
        """Yields what is private in a row."""
        for text in said(row):
            if not self._frames.again(text):
                for pattern, found in matches(text.text):
                    yield _told(row, text, pattern, found)


def _told(row: Row, text: Said, pattern: Pattern, found: re.Match[str]) -> Finding:
    secret = pattern.code.startswith("secret")
    shown = found["value"] if "value" in pattern.regex.groupindex else found.group()
    why = danger(text.learnt)
    fix = "revoke it where it was made, and remove it here" if secret else "replace it with an invented one"
    article = "an" if pattern.name[0] in "aeAEIO" else "a"
    return Finding(
        pattern.code,
        "warning",
        row.place,
        text.field,
        f"this looks like {article} {pattern.name}",
        why,
        fix,
        masked(shown),
    )


def danger(learnt: bool) -> str:
    """Says why personal data should not stand in a text."""
    return "the model may say it to anybody" if learnt else "a run's files are shared, and what is read can be said"


def blotted(finding: Finding) -> Finding:
    """Masks what is private in the words of a finding of another kind; what it shows of a row is masked already."""
    return replace(finding, what=_blotted(finding.what), why=_blotted(finding.why), fix=_blotted(finding.fix))


def _blotted(text: str) -> str:
    for pattern in PATTERNS:
        if pattern.needs and not any(needed in text.lower() for needed in pattern.needs):
            continue
        for found in list(pattern.regex.finditer(text)):
            near = pattern.context is None or pattern.context.search(text, 0, found.start())
            if near and pattern.proof(found):
                stretch = found["value"] if "value" in pattern.regex.groupindex else found.group()
                text = text.replace(stretch, f"{stretch[:2]}…")
    return text


def masked(text: str) -> str:
    """Shows the first two characters."""
    return f"{text[:2]}… ({len(text)} characters)"
