"""Makes rows of replies: what is grounded is kept, and what is not is kept apart with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune.completions import Reply
from finetune.data.messages import row_from
from finetune.draft.chunks import Chunk
from finetune.draft.grounding import (
    FEWEST_SHARED,
    Passage,
    find_quote,
    made_up_numbers,
    passage,
    shared_words,
    words_of,
)
from finetune.draft.phrases import pointing, refusal
from finetune.draft.reply import Pair, Unparsable, pairs
from finetune.draft.settings import Kind, Settings
from finetune.errors import Problem

UNPARSABLE = "the reply is not readable"
"""The one reason that drops a whole reply."""


@dataclass
class Sifted:
    """What became of replies."""

    kept: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)


class _Dropped(Exception):
    """Carries the reason out of a check."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def sift(chunks: Mapping[str, Chunk], replies: Mapping[str, Reply], settings: Settings) -> Sifted:
    """Judges all replies to the chunks, in the order of the documents.

    Args:
        chunks: by the identity of what was asked about them, as replies are.
        replies: not every chunk has one.
        settings: what was asked.
    """
    sifted, seen = Sifted(), set[str]()
    for name, chunk in chunks.items():
        if name not in replies:
            continue
        reply = replies[name]
        source = {"file": chunk.document.file, "chunk": name, "model": reply.model}
        try:
            found = pairs(reply.said)
        except Unparsable as wrong:
            why = "it was cut off at the server's limit" if reply.finish == "length" else str(wrong)
            told = {"reason": UNPARSABLE, "detail": why, "reply": reply.said, "source": _place(chunk, None) | source}
            sifted.rejected.append(told)
            continue
        text = passage(chunk.text, " ".join(chunk.heading))
        for pair in found:
            _judge(sifted, pair, chunk, text, source, settings, seen)
    return sifted


def _judge(
    sifted: Sifted,
    pair: Any,
    chunk: Chunk,
    text: Passage,
    source: dict[str, Any],
    settings: Settings,
    seen: set[str],
) -> None:
    """Puts a pair on one of the two sides."""
    try:
        span = _grounds(pair, chunk, text, settings)
        assert isinstance(pair, Pair)
        row = _row(pair, chunk, settings.kind, _place(chunk, span) | {"quote": pair.quote} | source)
        key = " ".join(words_of(row["prompt"])) or row["prompt"]
        if key in seen:
            raise _Dropped("asked before")
        seen.add(key)
    except _Dropped as dropped:
        told = pair.__dict__ if isinstance(pair, Pair) else {"pair": pair}
        reason = {"reason": dropped.reason, "detail": dropped.detail} if dropped.detail else {"reason": dropped.reason}
        sifted.rejected.append({**reason, **told, "source": _place(chunk, None) | source})
    else:
        sifted.kept.append(row)


def _grounds(pair: Any, chunk: Chunk, text: Passage, settings: Settings) -> tuple[int, int]:
    """Gives where in the chunk a pair's quote stands.

    Raises:
        _Dropped: the pair does not rest on the chunk, or cannot be learnt from.
    """
    if not isinstance(pair, Pair):
        raise _Dropped("question, answer or quote is missing")
    if not (pair.question and pair.answer):
        raise _Dropped("question or answer is empty")
    if words := refusal(pair.answer):
        raise _Dropped("a refusal", words)
    if settings.kind is Kind.qa and (words := pointing(f"{pair.question}\n{pair.answer}", chunk.text)):
        raise _Dropped("speaks of a passage that is not there", words)
    span = find_quote(pair.quote, text)
    if span is None:
        raise _Dropped("the quote does not stand in the passage")
    if numbers := made_up_numbers(pair.answer, text):
        raise _Dropped("a number of the answer does not stand in the passage", ", ".join(numbers))
    shared = shared_words(pair.answer, text)
    if not settings.language and shared < FEWEST_SHARED:
        raise _Dropped("too few words of the answer stand in the passage", f"{shared:.0%}")
    return span


def _row(pair: Pair, chunk: Chunk, kind: Kind, source: dict[str, Any]) -> dict[str, Any]:
    """Makes the row that is learnt from.

    Raises:
        _Dropped: training would refuse it.
    """
    prompt = pair.question if kind is Kind.qa else f"{pair.question}\n\n{chunk.text.strip()}"
    row = {"prompt": prompt, "completion": pair.answer, "source": source}
    found = row_from(row, "")
    if isinstance(found, Problem):
        raise _Dropped("training would refuse it", f"{found.what} {found.why}".strip())
    return row


def _place(chunk: Chunk, span: tuple[int, int] | None) -> dict[str, Any]:
    """Tells where a quote stands, or the whole chunk."""
    document = chunk.document
    if span is None:
        return {"heading": list(chunk.heading), document.unit: [chunk.first, chunk.last]}
    first, last = chunk.start + span[0], chunk.start + span[1] - 1
    return {"heading": list(document.path(first)), document.unit: [document.place(first), document.place(last)]}


def reasons(rejected: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Counts what was dropped by its reason, the most frequent first."""
    counts: dict[str, int] = {}
    for told in rejected:
        counts[told["reason"]] = counts.get(told["reason"], 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
