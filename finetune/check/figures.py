"""Figures of the data: languages, lengths, what is learnt, answers, turns, labels, sources."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.check.finding import Finding, Side
from finetune.check.languages import UNTOLD, language
from finetune.check.saying import answers
from finetune.data import Example, Row

LABEL_LENGTH, MOST_LABELS = 60, 200
"""Characters of an answer that may be a label, and how many labels a task has at most."""

FEW_ROWS = 50
"""Below which a tuning rarely shows anything."""

BINS, OUTLIER = 32, 4
"""Bars of a histogram, and how many times p95 it reaches at most: one long row would squeeze all others."""


@dataclass(frozen=True)
class Lengths:
    """How long examples are, in tokens."""

    p50: int
    p95: int
    longest: int
    tokens: int
    learnt: int
    edges: tuple[int, ...]
    counts: tuple[int, ...]
    """Examples between one edge and the next; longer ones are in the last."""


class Figures:
    """Counts rows and examples as they come; holds eight bytes of each example."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self.turns: Counter[int] = Counter()
        self.traits: Counter[str] = Counter()
        self._labels: Counter[str] | None = Counter()
        self._answer_characters = array("L")
        self._lengths, self._learnt = array("L"), array("L")

    def see(self, row: Row, side: Side) -> None:
        """Counts a row."""
        told = [text.text for text in answers(row)]
        said = "\n".join(told) or "\n".join(message["content"] for message in row.messages)
        self.rows[side] += 1
        guess = language(said)
        if guess in UNTOLD:  # a label is too short to tell
            guess = language("\n".join(message["content"] for message in row.messages))
        self.languages[guess] += 1
        self.sources[row.place.rpartition(":")[0]] += 1
        self.turns[sum(message["role"] == "user" for message in row.messages)] += 1
        self.traits["reasoning"] += any("reasoning_content" in message for message in row.messages)
        self.traits["tools"] += bool(row.tools)
        self.traits["calls"] += any("tool_calls" in message for message in row.messages)
        self.traits["system prompt"] += bool(row.messages) and row.messages[0]["role"] == "system"
        self._answer_characters.append(len(said))
        if side == "learnt" and self._labels is not None:
            answer = told[-1].strip() if told else ""
            self._labels[answer] += 1
            if len(answer) > LABEL_LENGTH or "\n" in answer or len(self._labels) > MOST_LABELS:
                self._labels = None

    def see_example(self, example: Example) -> None:
        """Counts an example that may be learnt or held out, before it is cut or left out."""
        self._lengths.append(len(example) + len(example.cut))
        self._learnt.append(sum(example.learnt))

    def lengths(self) -> Lengths | None:
        """Sums up the lengths; None where there was no tokenizer."""
        if not self._lengths:
            return None
        told = np.array(self._lengths)
        p50, p95 = (int(value) for value in np.percentile(told, (50, 95), method="inverted_cdf"))
        last = min(int(told.max()), OUTLIER * p95) + 1
        edges = np.unique(np.linspace(0, last, BINS + 1).astype(int))
        counts = np.histogram(np.minimum(told, last - 1), edges)[0]
        learnt = sum(self._learnt)
        return Lengths(
            p50, p95, int(told.max()), int(told.sum()), learnt, tuple(edges.tolist()), tuple(counts.tolist())
        )

    def labels(self) -> dict[str, int]:
        """Gives the answers, where they are few and short, the commonest first; else nothing."""
        total = self.rows["learnt"]
        if self._labels is None or len(self._labels) < 2 or 3 * len(self._labels) > total:
            return {}
        return dict(self._labels.most_common())

    def finish(self) -> Iterator[Finding]:
        """Yields what the figures themselves say against the data."""
        if 0 < self.rows["learnt"] < FEW_ROWS:
            what = f"{self.rows['learnt']} rows are learnt"
            why = f"under {FEW_ROWS} a tuning rarely shows anything but their form"
            yield Finding("few-rows", "warning", next(iter(self.sources)), "", what, why, "write or collect more rows")

    def told(self) -> dict[str, Any]:
        """Gives all figures as JSON has them."""
        lengths, labels = self.lengths(), self.labels()
        characters = np.array(self._answer_characters) if self._answer_characters else np.zeros(1, int)
        return {
            "rows": dict(self.rows),
            "sources": dict(self.sources.most_common()),
            "languages": dict(self.languages.most_common()),
            "turns": {str(n): count for n, count in sorted(self.turns.items())},
            "traits": dict(self.traits),
            "answer_characters": {"p50": int(np.median(characters)), "longest": int(characters.max())},
            "labels": labels,
            "majority_share": max(labels.values()) / sum(labels.values()) if labels else None,
            "tokens": None
            if lengths is None
            else {
                "p50": lengths.p50,
                "p95": lengths.p95,
                "longest": lengths.longest,
                "all": lengths.tokens,
                "learnt": lengths.learnt,
                "learnt_share": lengths.learnt / lengths.tokens,
                "edges": lengths.edges,
                "counts": lengths.counts,
            },
        }


def too_long(example: Example, limit: int, fix: str) -> Iterator[Finding]:
    """Tells of an example that is left out or cut.

    Args:
        example: that was, with what was cut off its end.
        limit: data.max_length.
        fix: the line that lets the longest in.
    """
    code, fate = ("cut-to-fit", "cut at a turn") if example.cut else ("too-long", "left out")
    what = f"{len(example) + len(example.cut):,} tokens: the example is {fate}"
    yield Finding(code, "warning", example.place, "", what, f"data.max_length allows {limit:,}", fix)
