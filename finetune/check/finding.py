"""What a check of the data finds: each problem with its place, its reason and its cure. The codes are fixed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from finetune.check.hiding import closed, hidden

Side = Literal["learnt", "held out"]
Severity = Literal["error", "warning"]

CODES = {
    "refused": "training would refuse this",
    "duplicate-exact": "rows that stand there more than once, word for word",
    "duplicate-normalised": "rows that differ in case, spaces or punctuation only",
    "duplicate-near": "rows that share most of their words, in order",
    "prompt-conflict": "one prompt with several different answers",
    "leak-exact": "held-out rows that are learnt too, word for word",
    "leak-normalised": "held-out rows that are learnt too but for case, spaces or punctuation",
    "leak-prompt": "held-out prompts that are learnt with another answer",
    "leak-near": "held-out rows that share most of their words, in order, with a learnt one",
    "leak-answer": "held-out answers of which a long stretch is learnt word for word",
    "secret-token": "access tokens and private keys",
    "secret-password": "passwords in plain text",
    "personal-email": "e-mail addresses",
    "personal-phone": "telephone numbers",
    "personal-card": "payment card numbers",
    "personal-iban": "bank account numbers",
    "personal-id": "social security, identity and tax numbers",
    "personal-name": "names of people",
    "personal-ip": "public network addresses",
    "mojibake": "text that was read in the wrong encoding",
    "replacement-character": "characters that were lost in a conversion",
    "control-character": "control characters",
    "invisible-character": "characters that cannot be seen",
    "lone-surrogate": "halves of characters",
    "html-left": "HTML left over in answers",
    "placeholder": "placeholders that nobody filled",
    "control-token": "control tokens of a chat template, spelt out",
    "think-unbalanced": "<think> without </think>, or the reverse",
    "role-in-text": "the words of another chat format inside a message",
    "answer-says-nothing": "answers without a letter or a digit, or a program's word for nothing",
    "answer-refuses": "answers that refuse, or speak as an AI language model",
    "answer-is-prompt": "answers that repeat the prompt",
    "answer-cut": "answers that break off in a sentence",
    "tool-schema-invalid": "tools whose parameters are not a JSON Schema",
    "tool-without-schema": "calls in rows that offer no tools",
    "tool-argument-unknown": "arguments that the tool does not have",
    "tool-argument-missing": "calls without a required argument",
    "tool-argument-wrong": "arguments that break the tool's schema",
    "too-long": "examples longer than data.max_length, left out",
    "cut-to-fit": "examples longer than data.max_length, cut at a turn",
    "few-rows": "fewer rows than show anything",
}
"""Each code and what it stands for. Programs read them: one may be added, none renamed."""

SNIPPET = 100
"""Characters of a row that are shown."""

KEPT = 200
"""Findings of a kind that are held in memory; the report has all of them."""


@dataclass(frozen=True)
class Finding:
    """One problem, or a group of rows with the same one."""

    code: str
    severity: Severity
    place: str
    """`file:line`, of the first row where there are several."""
    field: str
    """Of the row: `messages[2].content`. Empty where the whole row is meant."""
    what: str
    why: str = ""
    fix: str = ""
    """One line to copy where it can be computed."""
    snippet: str = ""
    """What stands there; secrets and personal data are masked."""
    others: tuple[str, ...] = ()
    """Places of the other rows of a group."""

    def __post_init__(self) -> None:
        assert self.code in CODES, self.code


@dataclass
class Findings:
    """All that was found: counted, the first of each kind kept, each handed on as it comes."""

    hand_on: Callable[[Finding], None] = lambda finding: None
    kept: dict[str, list[Finding]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    """Rows that the findings of a kind speak of; a group has several."""
    sizes: Counter[int] = field(default_factory=Counter)
    """Groups of duplicates by their rows."""
    errors: int = 0

    def add(self, found: Iterable[Finding]) -> None:
        """Takes findings in."""
        for finding in found:
            self.counts[finding.code] += 1
            self.rows[finding.code] += 1 + len(finding.others)
            if finding.code.startswith("duplicate"):
                self.sizes[1 + len(finding.others)] += 1
            self.errors += finding.severity == "error"
            kept = self.kept.setdefault(finding.code, [])
            if len(kept) < KEPT:
                kept.append(finding)
            self.hand_on(finding)


MARGIN = 2_000
"""Characters around them that are looked at for what is private: a part of it can stand in them."""


def snippet(text: str, start: int = 0, end: int = 0) -> str:
    """Shows what stands around text[start:end] in one line, without what is private."""
    room = max(0, SNIPPET - (end - start)) // 2 if end else 0
    first = max(0, start - room)
    begin = max(0, first - MARGIN)
    shown = hidden(text[begin : first + SNIPPET + MARGIN])[first - begin : first - begin + SNIPPET]
    shown = " ".join(closed(shown).split())
    shown = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in shown)
    return ("…" if first else "") + shown + ("…" if first + SNIPPET < len(text) else "")
