"""Reads what a teacher replied: the first JSON value in it, and the pairs in that."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

MOST_TRIES = 64
"""Brackets at which a JSON value is looked for."""

_HALF = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Pair:
    """What a teacher proposes."""

    question: str
    answer: str
    quote: str


class Unparsable(Exception):
    """Says why a reply holds no pairs."""


def pairs(said: str) -> list[Any]:
    """Finds the pairs of a reply, each a Pair; what is none is given as it is.

    Raises:
        Unparsable: there is no list of pairs in it.
    """
    bare = without_thoughts(said)
    if not bare.strip():
        raise Unparsable("it is empty" if not said.strip() else "it is all thought")
    value = _first_value(bare)
    if isinstance(value, dict):
        lists = [inner for name, inner in value.items() if isinstance(inner, list) and name == "pairs"]
        lists = lists or [inner for inner in value.values() if isinstance(inner, list)]
        value = lists[0] if len(lists) == 1 else [value]
    return [_pair(item) if isinstance(item, dict) else item for item in value]


def without_thoughts(said: str) -> str:
    """Cuts what a model thought aloud, whether or not the thought was opened or closed."""
    _, closed, rest = said.rpartition("</think>")
    return rest if closed else said.partition("<think>")[0]


def _first_value(text: str) -> dict[str, Any] | list[Any]:
    decoder = json.JSONDecoder(strict=False)  # a line break inside a string is what it is
    why = "it holds no JSON"
    for place in list(re.finditer(r"[\[{]", text))[:MOST_TRIES]:
        try:
            value, _ = decoder.raw_decode(text, place.start())
        except (ValueError, RecursionError) as error:
            why = f"its JSON is broken: {error}" if why == "it holds no JSON" else why
            continue
        if isinstance(value, dict) or any(isinstance(item, dict) for item in value):
            return value  # type: ignore[no-any-return]
    raise Unparsable(why)


def _pair(item: dict[str, Any]) -> Pair | dict[str, Any]:
    told = [item.get("question"), item.get("answer"), item.get("quote")]
    match told:
        case [str() as question, str() as answer, str() as quote] if not any(
            map(_HALF.search, (question, answer, quote))
        ):
            return Pair(question.strip(), answer.strip(), quote.strip())
    return item
