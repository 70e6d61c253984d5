"""JSON that is one value: a list of rows, read piece by piece, or an object that holds them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from finetune.data.files.json_shapes import Member, Unfinished, end_of_value, held_in, members, past_blank
from finetune.data.files.opening import opened, printing, renamed, text_chunks, too_long, whole_text
from finetune.data.files.records import EXAMPLE, MAX_RECORD_BYTES, Format, Raw
from finetune.data.strict_json import WrongJson, kind, read_json
from finetune.errors import DataError, Problem

LIKE = f"a row is a JSON object, like {EXAMPLE}"

MAX_OBJECT_BYTES = 256 * 2**20
"""An object is held as text while it is read; a list is not, and may be of any size."""


def json_list(file: Path, shown: str, fmt: Format) -> Iterator[Raw | Problem]:
    """Yields the records of a list, in memory for one record at a time."""
    with opened(file, shown) as stream:
        yield from _records(_elements(text_chunks(stream, shown), 1, shown, fmt), shown, fmt)


def json_object(file: Path, shown: str, fmt: Format) -> Iterator[Raw | Problem]:
    """Yields the records that an object holds, or the object where it is a row itself.

    Raises:
        DataError: it is not JSON, too large, or holds no rows.
    """
    text = whole_text(file, shown, MAX_OBJECT_BYTES, _jq(".[]", shown, fmt))
    found, end = _whole_object(text, shown, fmt)
    held, holders = held_in(text, found)
    line_of = _line_counter(text)
    if held == "row":
        start = len(text) - len(text.lstrip())
        yield from _records([(line_of(start), text[start:end])], shown, fmt)
    elif held == "rows":
        for member, record in zip(holders, _records(_pieces(text, holders, line_of), shown, fmt), strict=True):
            yield _with_id(record, member.key)
    elif held == "list":
        (holder,) = holders
        piece = text[holder.start : holder.end]
        yield from _records(_elements([piece], line_of(holder.start), shown, fmt), shown, fmt)
    else:
        raise _no_rows(text, held, holders, shown, fmt)


def _elements(chunks: Iterable[str], line: int, shown: str, fmt: Format) -> Iterator[tuple[int, str]]:
    """Yields the line and the text of each element of a list, as soon as it is complete."""
    rest, expected = "", "["
    for chunk in chain(chunks, [None]):
        rest += chunk or ""
        at = counted = 0
        while (at := past_blank(rest, at)) < len(rest):
            line, counted = line + rest.count("\n", counted, at), at
            mark = rest[at]
            if expected == "end":
                raise _something_after(rest, at, line, shown, fmt)
            if expected == "value" and mark == "]":
                raise _broken(",]", Unfinished("Expecting value", 1), line, shown)
            if expected == "value" or (expected == "first" and mark != "]"):
                try:
                    end = end_of_value(rest, at)
                except Unfinished as error:
                    if len(rest) - at > MAX_RECORD_BYTES:
                        raise too_long(shown, line, fmt.gzip) from None
                    if chunk is None:
                        raise _broken(rest, error, line + rest.count("\n", at, error.at), shown) from None
                    break
                if end == len(rest) and chunk is not None:
                    break  # a number may go on
                yield line, rest[at:end]
                at, expected = end, "comma"
                continue
            if mark not in {"[": "[", "first": "]", "comma": ",]"}[expected]:
                raise _broken(rest, Unfinished("Expecting ',' delimiter", at), line, shown)
            expected = {"[": "first", ",": "value", "]": "end"}[mark]
            at += 1
        line += rest.count("\n", counted, at)
        rest = rest[at:]
    if expected != "end":
        raise _broken("", Unfinished("the file ends before its list does", 0), line, shown)


def _pieces(text: str, found: list[Member], line_of: Callable[[int], int]) -> Iterator[tuple[int, str]]:
    for member in found:
        yield line_of(member.start), text[member.start : member.end]


def _records(pieces: Iterable[tuple[int, str]], shown: str, fmt: Format) -> Iterator[Raw | Problem]:
    """Parses each element strictly; a list around one object is taken off it.

    Raises:
        DataError: the first is no object, so that none will be.
    """
    for number, (line, piece) in enumerate(pieces, 1):
        place = f"{shown}:{line}"
        if len(piece) > MAX_RECORD_BYTES:
            raise too_long(shown, line, fmt.gzip)
        try:
            value = read_json(piece)
        except WrongJson as error:
            yield Problem("the record is not JSON that can be learnt from", place, error.why, error.fix)
            continue
        if isinstance(value, list) and len(value) == 1:
            (value,) = value
        if isinstance(value, dict):
            yield Raw(line, value)
        elif number == 1:
            what = f"the file is a list of {_many(value)}, not of rows"
            raise DataError(what, where=place, why=LIKE, fix=_row_around(value, shown, fmt))
        else:
            yield Problem("a row is a JSON object", place, f"it is {kind(value)}", EXAMPLE)


def _row_around(value: Any, shown: str, fmt: Format) -> str:
    """Writes the command that makes rows of a list's elements, where it is plain what they are."""
    if isinstance(value, str):
        return _jq(".[] | {text: .}", shown, fmt)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return _jq(".[] | {messages: .}", shown, fmt)
    return EXAMPLE


def _whole_object(text: str, shown: str, fmt: Format) -> tuple[list[Member], int]:
    """Finds the members of the object that a text is, and its end."""
    at = past_blank(text, 0)
    try:
        found, end = members(text, at)
    except Unfinished as error:
        raise _broken(text, error, text.count("\n", 0, error.at) + 1, shown) from None
    if (after := past_blank(text, end)) < len(text):
        if end > MAX_RECORD_BYTES and "\n" not in text[at:end]:
            raise too_long(shown, text.count("\n", 0, at) + 1, fmt.gzip)
        raise _something_after(text, after, text.count("\n", 0, after) + 1, shown, fmt)
    seen: set[str] = set()
    for member in found:
        if member.key in seen:
            twice = json.dumps(member.key, ensure_ascii=False)
            where = f"{shown}:{text.count(chr(10), 0, member.start) + 1}"
            raise DataError(f"the key {twice} stands twice", where=where, why="one is meant", fix=f"keep one {twice}")
        seen.add(member.key)
    return found, end


def _with_id(record: Raw | Problem, key: str) -> Raw | Problem:
    """Adds the key under which a record stood, unless the record has an id of its own."""
    if isinstance(record, Problem) or not isinstance(record.value, dict) or "id" in record.value:
        return record
    return Raw(record.line, {"id": key, **record.value})


def _line_counter(text: str) -> Callable[[int], int]:
    """Gives a function that tells the line of a place, for places that come in order."""
    last, line = 0, 1

    def line_of(at: int) -> int:
        nonlocal last, line
        line, last = line + text.count("\n", last, at), at
        return line

    return line_of


def _broken(text: str, error: Unfinished, line: int, shown: str) -> DataError:
    """Tells of JSON that cannot be read on: what comes after the place is unknown."""
    before, after = text[: error.at].rstrip(), text[error.at :]
    why = f"{error.why} after …{before[-30:]}" if before else error.why
    fix = f"jq empty {shlex.quote(shown)}"
    if before.endswith(",") and after.lstrip()[:1] in ("]", "}"):
        fix = "remove the comma before the closing bracket"
    elif re.match(r"\s*(None|True|False)\b|'", after) or "'" in before[-2:]:
        fix = "write it with json.dumps(rows), not str(rows)"
    elif error.why.startswith("Expecting ','") and after.lstrip()[:1] in ('"', "{"):
        fix = f"put a comma before {after.lstrip()[:20].splitlines()[0]}"
    elif not after.strip():
        fix = f"tail -c 200 {shlex.quote(shown)}"
    return DataError("the file is not JSON", where=f"{shown}:{line}", why=why, fix=fix)


def _something_after(text: str, at: int, line: int, shown: str, fmt: Format) -> DataError:
    """Tells of a second value after the first: one after another is not one JSON."""
    mark, where = text[at], f"{shown}:{line}"
    if mark not in "[{":
        what, why = "something follows the end of the JSON", f"…{text[at : at + 30]}".splitlines()[0]
        return DataError(what, where=where, why=why, fix=f"remove what follows, from line {line} on")
    what, filter_ = ("objects", ".") if mark == "{" else ("lists", ".[]")
    why = "that is JSON Lines only where each is an object in one line"
    return DataError(f"several {what} follow one another", where=where, why=why, fix=_jq(filter_, shown, fmt))


def _no_rows(text: str, held: str, holders: list[Member], shown: str, fmt: Format) -> DataError:
    """Tells of an object whose values are not rows."""
    first = holders[0]
    where = f"{shown}:{text.count(chr(10), 0, first.start) + 1}"
    if held == "lists":
        names = ", ".join(m.key for m in holders[:4])
        fix = _jq(f".[{json.dumps(first.key, ensure_ascii=False)}][]", shown, fmt)
        what = f"the file holds several lists of rows: {names}"
        return DataError(what, where=where, why="one list is read from a file", fix=fix)
    if held == "columns":
        code = (
            "import sys, pandas; pandas.read_json(sys.stdin, dtype=False, convert_dates=False)"
            ".to_json(sys.stdout, orient='records', lines=True, force_ascii=False)"
        )
        target = shlex.quote(renamed(shown, "rows", ".jsonl"))
        fix = f"{printing(shown, fmt.gzip)} | python -c {shlex.quote(code)} > {target}"
        what, why = "the file holds its rows column by column", f"{json.dumps(first.key)} holds that column of all rows"
        return DataError(what, where=where, why=why, fix=fix)
    of = _many(json.loads(text[first.start : first.end]))
    example = f"{json.dumps(first.key, ensure_ascii=False)} -> {text[first.start : first.end][:40]}"
    fix = _jq("to_entries[] | {id: .key, label: .value}", shown, fmt)
    return DataError(f"the file is an object of {of}, not of rows", where=where, why=f"{example}; {LIKE}", fix=fix)


def _jq(filter_: str, shown: str, fmt: Format) -> str:
    """Writes the command that makes JSON Lines of a file."""
    target = shlex.quote(renamed(shown, "rows", ".jsonl"))
    return f"{printing(shown, fmt.gzip)} | jq -c {shlex.quote(filter_)} > {target}"


def _many(value: Any) -> str:
    return {"text": "texts", "a number": "numbers", "a list": "lists", "an object": "objects"}.get(
        kind(value), kind(value)
    )
