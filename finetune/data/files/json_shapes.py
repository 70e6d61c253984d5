"""Says what a JSON text is from its beginning: lines of JSON, a list, or one object, and of what."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

ROW_WORDS = frozenset(
    (
        *("messages", "conversations", "conversation", "prompt", "completion", "text", "chosen", "rejected"),
        *("instruction", "input", "output", "question", "answer", "query", "response", "context", "label"),
    )
)
"""Columns by which an object is known as one row, not as a holder of rows."""

MAX_ROW_FIELDS = 32
"""An object of more texts than a row has columns maps ids to texts."""

_BLANK = re.compile(r"[ \t\r\n]*")

_OBJECT = re.compile(r"""\{\s*(?:["'}]|$|[A-Za-z_]\w*\s*:)""")
_LIST = re.compile(r"""\[[\s\[]*(?:["{\]]|$)|\[[\s\[]*-?\d[-+.\deE,\s\[\]]*$""")
_CHAT = re.compile(r'\[\s*\{\s*"(?:role|from|speaker|content|value)"\s*:')
_COLUMN = re.compile(r'\{\s*"0"\s*:')  # as pandas writes one: the number of each row, and its value
_FIRST_OF_LIST = re.compile(r"\[\s*(.|$)")

_decoder = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)  # finds where a value ends, no more


@dataclass(frozen=True)
class Member:
    """One key of an object and where its value stands."""

    key: str
    start: int
    end: int


class Unfinished(Exception):
    """A text that is not JSON, or not yet: what the parser says, and where."""

    def __init__(self, why: str, at: int) -> None:
        super().__init__(why)
        self.why, self.at = why, at


def end_of_value(text: str, at: int) -> int:
    """Finds the end of the JSON value that begins at a place.

    Raises:
        Unfinished: no value ends in this text.
    """
    try:
        return _decoder.raw_decode(text, at)[1]
    except json.JSONDecodeError as error:
        raise Unfinished(error.msg, error.pos) from None
    except RecursionError:
        raise Unfinished("it is nested too deep", at) from None


def members(text: str, at: int) -> tuple[list[Member], int]:
    """Finds the members of the object that begins at a place, and the place after its end.

    Raises:
        Unfinished: it is not an object, or not a whole one.
    """
    found: list[Member] = []
    at, mark = past_blank(text, at + 1), ","
    if text[at : at + 1] == "}":
        return found, at + 1
    while mark == ",":
        if text[at : at + 1] != '"':
            raise Unfinished("Expecting a name in double quotes", at)
        end = end_of_value(text, at)
        key = str(json.loads(text[at:end]))
        at = past_blank(text, end)
        if text[at : at + 1] != ":":
            raise Unfinished("Expecting ':' delimiter", at)
        start = past_blank(text, at + 1)
        end = end_of_value(text, start)
        found.append(Member(key, start, end))
        at = past_blank(text, end)
        mark = text[at : at + 1]
        if mark not in (",", "}"):
            raise Unfinished("Expecting ',' delimiter", at)
        at = past_blank(text, at + 1) if mark == "," else at + 1
    return found, at


def held_in(text: str, found: list[Member]) -> tuple[str, list[Member]]:
    """Says what an object is, and which of its members hold the rows.

    Returns:
        `row`: it is a row itself; `rows`: each member is one; `list`: one member is a list of them; `lists`: several
        are; `texts`: it maps ids to texts, numbers or lists of them, which are no rows; `columns`: each member is one
        column of all rows.
    """
    firsts = {"0" if text[m.start] in "-0123456789" else text[m.start] for m in found}
    if found and all(_COLUMN.match(text, m.start) for m in found):
        return "columns", found
    if any(m.key.lower() in ROW_WORDS for m in found) or not found:
        return "row", []
    if firsts == {"{"}:
        return "rows", found
    lists = [m for m in found if _first_inside(text, m) == "{" and not _CHAT.match(text, m.start)]
    if lists:
        return ("list" if len(lists) == 1 else "lists"), lists
    if len(found) > MAX_ROW_FIELDS and len(firsts) == 1:
        return "texts", found
    return "row", []


def json_name(head: str, whole: bool) -> str:
    """Names the JSON that a text begins as, or gives nothing.

    Args:
        head: the beginning of the file; two lines of it, where it begins with an object.
        whole: whether the head is the whole file.
    """
    text = head.strip()
    if _LIST.match(text):
        return "JSON list"
    first, _, rest = text.partition("\n")
    if _OBJECT.match(text):
        return _object_name(text, first, rest.lstrip(), whole)
    return "JSON Lines" if first.startswith('"') and _is_json(first.rstrip()) else ""


def _object_name(text: str, first: str, rest: str, whole: bool) -> str:
    """Tells one object over many lines from an object a line."""
    if _is_json(first.rstrip()):
        alone = whole and not rest
        if not alone:
            return "JSON Lines"
        return "JSON Lines" if held_in(first, members(first, 0)[0])[0] == "row" else "JSON object of rows"
    if not rest and whole:
        return "JSON Lines"
    try:
        end_of_value(text, 0)
    except Unfinished as error:
        begun = error.at > len(text) - len(rest)  # into the second line: the first was no row cut off
        return "JSON object of rows" if begun or not rest.startswith("{") else "JSON Lines"
    return "JSON object of rows"


def _is_json(text: str) -> bool:
    try:
        return end_of_value(text, 0) == len(text)
    except Unfinished:
        return False


def _first_inside(text: str, member: Member) -> str:
    found = _FIRST_OF_LIST.match(text, member.start, member.end)
    return found.group(1) if found else ""


def past_blank(text: str, at: int) -> int:
    """Finds the next place that is not blank."""
    found = _BLANK.match(text, at)
    return found.end() if found else at
