"""Whether an answer is the expected one: by words, pattern, label, or as JSON. No model, no files."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

THOUGHT_BEGINS, THOUGHT_ENDS = "<think>", "</think>"

_WORDS = re.compile(r"[-+]?\d+(?:[.,:/]\d+)*%?|[^\W_]+")
"""A number with its sign, point and per cent, or a run of letters and digits."""

_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)\n?\s*```", re.DOTALL)


@dataclass(frozen=True)
class Scored:
    """What an answer is worth."""

    right: bool
    why: str = ""
    """In a word or two, where there is something to say: `no answer`, `not JSON`."""


NO_ANSWER = Scored(False, "no answer")
"""The thought never ended, so nothing was said."""


def spoken(answer: str, thinking: bool) -> str | None:
    """Takes the reasoning out of an answer: what follows the last `</think>`.

    Args:
        answer: as the model gave it, after its prompt.
        thinking: whether the prompt had begun the thought.

    Returns:
        None if a thought was begun and never ended.
    """
    _, ended, said = answer.rpartition(THOUGHT_ENDS)
    if (thinking and not ended) or THOUGHT_BEGINS in said:
        return None
    return said.strip()


@lru_cache(maxsize=65_536)
def normalised(text: str) -> str:
    """Gives the words of a text: without case, punctuation and spaces; of a number sign, point and per cent stay.

    A text that has no word is compared as it stands.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORDS.findall(folded)) or folded.strip()


def exact(said: str, expected: str) -> Scored:
    """Compares the words of both."""
    return Scored(normalised(said) == normalised(expected))


def contains(said: str, expected: str) -> Scored:
    """Looks for the expected words in the answer, next to one another and whole."""
    return Scored(f" {normalised(expected)} " in f" {normalised(said)} ")


def matched(pattern: str, text: str) -> str | None:
    """Gives what a pattern finds in the last place where it matches: its first group, or all of it."""
    found = list(re.finditer(pattern, text, re.MULTILINE))
    if not found:
        return None
    return str(found[-1][1] if found[-1].re.groups and found[-1][1] is not None else found[-1][0])


def by_pattern(said: str, expected: str, pattern: str) -> Scored:
    """Compares what a pattern finds in the answer with what it finds in the expected one, or with all of that."""
    found, wanted = matched(pattern, said), matched(pattern, expected)
    if found is None:
        return Scored(False, "no match")
    return exact(found, expected if wanted is None else wanted)


def chosen(said: str, labels: Sequence[str], named: Literal["first", "last"]) -> str | None:
    """Finds the label that an answer names first or last; of labels that begin together, the longest.

    Args:
        said: the answer.
        labels: that can be chosen.
        named: which counts.
    """
    text, at = f" {normalised(said)} ", 0
    places: list[tuple[int, int, str]] = []
    forms = sorted(((f" {normalised(label)} ", label) for label in labels), key=lambda each: -len(each[0]))
    for form, label in forms:
        at = text.find(form)
        while at >= 0:
            if not any(begin <= at and at + len(form) <= end for begin, end, _ in places):  # within a longer one
                places.append((at, at + len(form), label))
            at = text.find(form, at + 1)
    if not places:
        return None
    return (min if named == "first" else max)(places, key=lambda place: (place[0], place[1]))[2]


def by_choice(said: str, expected: str, labels: Sequence[str], named: Literal["first", "last"]) -> Scored:
    """Compares the label that the answer names with the expected one."""
    found = chosen(said, labels, named)
    return Scored(False, "names no label") if found is None else exact(found, expected)


def majority(expected: Sequence[str]) -> tuple[str, int]:
    """Gives the answer that is expected most often, and how often: what always saying it would score."""
    counted = Counter(map(normalised, expected))
    form, times = counted.most_common(1)[0]
    return next(text for text in expected if normalised(text) == form), times


def parsed(said: str) -> Any:
    """Reads JSON from an answer that is nothing else, or from its only fenced block.

    Raises:
        ValueError: it is not JSON, or JSON of NaN and the like.
    """
    fenced = _FENCE.findall(said)
    text = fenced[0] if len(fenced) == 1 else said
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def same_json(one: Any, other: Any) -> bool:
    """Compares two values as JSON has them: numbers by value, true is not 1, keys in any order."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_json(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_json, one, other))
    return bool(one == other)


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")
