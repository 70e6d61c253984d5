"""Reads JSON Lines; a wrong row is named by file, line and field, and none is skipped in silence."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.dialects import conversion
from finetune.data.messages import Row, row_from
from finetune.errors import DataError, Problem

MAX_LINE_BYTES = 8 * 2**20
SHOWN_PROBLEMS = 20


def read_rows(file: Path) -> list[Row]:
    """Reads every row of a file.

    Raises:
        DataError: the file is missing, empty or not JSON Lines, or rows of it cannot be learnt from;
            the first twenty problems are told, the others counted.
    """
    rows: list[Row] = []
    problems: list[Problem] = []
    shown = shown_name(file)
    for line, text in _lines(file, shown):
        place = f"{shown}:{line}"
        value, problem = _parse(text, place)
        if problem is not None:
            problems.append(problem)
            if len(problems) == 1 and not rows and (other := _other_format(file, shown)):
                raise other
            continue
        found = row_from(value, place)
        if isinstance(found, Row):
            rows.append(found)
        else:
            problems += found
    if problems:
        raise DataError.of(_capped(problems, len(rows)))
    if not rows:
        fix = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
        raise DataError("the file holds no rows", where=shown, why="there is nothing to learn", fix=fix)
    return rows


def shown_name(file: Path) -> str:
    """Names a file as briefly as the working folder allows."""
    try:
        return str(file.relative_to(Path.cwd()))
    except ValueError:
        return str(file)


def _lines(file: Path, shown: str) -> Iterator[tuple[int, bytes]]:
    """Yields the number (from 1) and the bytes of each line that is not blank."""
    try:
        with file.open("rb") as stream:
            number = 0
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise DataError(
                        "the line is too long for a row",
                        where=f"{shown}:{number}",
                        why=f"a row has at most {MAX_LINE_BYTES:,} bytes",
                        fix=conversion(file, shown)
                        or f"split the row; awk 'length > {MAX_LINE_BYTES}' {shown} finds more",
                    )
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield number, line
    except FileNotFoundError:
        names = [p.name for p in file.parent.glob("*.jsonl")] if file.parent.is_dir() else []
        close = difflib.get_close_matches(file.name, names, n=1, cutoff=0.4)
        fix = f"did you mean {shown_name(file.parent / close[0])}?" if close else "finetune init legal"
        raise DataError("there is no such data file", where=shown, fix=fix) from None
    except IsADirectoryError:
        names = sorted(p.name for p in file.glob("*.jsonl"))
        fix = f"data.train: {shown_name(file / names[0])}" if names else "name a .jsonl file"
        raise DataError("this is a folder, not a file of rows", where=shown, fix=fix) from None
    except OSError as error:
        why = error.strerror or str(error)
        raise DataError("the data cannot be read", where=shown, why=why, fix=f"ls -l {shown}") from None


def _parse(text: bytes, place: str) -> tuple[Any, Problem | None]:
    """Parses one line; gives the value or what is wrong with it."""
    try:
        line = text.decode("utf-8")
    except UnicodeDecodeError as error:
        why = f"byte {error.start} of the line is 0x{text[error.start]:02x}"
        return None, Problem("the line is not UTF-8", place, why, "iconv -f latin1 -t utf-8 FILE > fixed.jsonl")
    try:
        value = json.loads(line, object_pairs_hook=_once_each, parse_constant=_no_constant)
    except _Refused as error:
        return None, Problem("the line is not a proper JSON object", place, str(error), error.fix)
    except (json.JSONDecodeError, RecursionError) as error:
        why = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "nested too deep"
        fix = 'write the row in one line, quotes doubled as \\"'
        if line.lstrip().startswith("{'"):
            fix = "use json.dumps(row), not str(row): JSON wants double quotes"
        elif line.rstrip().endswith(","):
            fix = "remove the comma at the end of the line"
        return None, Problem("the line is not JSON", place, why, fix)
    try:
        line.encode("utf-16", "surrogatepass").decode("utf-16")
        if "\\ud" in line.lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        why = "a \\ud8xx escape stands without its second half"
        return None, Problem("the row holds half a character", place, why, "row['text'].encode('utf-8', 'replace')")
    if not isinstance(value, dict):
        why = f"it is a {type(value).__name__}"
        return None, Problem("a row is a JSON object", place, why, '{"prompt": "...", "completion": "..."}')
    return value, None


class _Refused(Exception):
    """JSON that Python reads but that means nothing."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why)
        self.fix = fix


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise _Refused(f"the key {json.dumps(twice)} stands twice", f"keep one {json.dumps(twice)}")
    return found


def _no_constant(word: str) -> Any:
    raise _Refused(f"{word} is not JSON", "write null, or leave the field out")


def _other_format(file: Path, shown: str) -> DataError | None:
    """Recognises the formats that are not JSON Lines, to say how to convert them."""
    fix = conversion(file, shown)
    if not fix:
        return None
    return DataError("the file is not JSON Lines", where=f"{shown}:1", why="each line must hold one row", fix=fix)


def _capped(problems: list[Problem], good: int) -> list[Problem]:
    if len(problems) <= SHOWN_PROBLEMS:
        return problems
    more = len(problems) - SHOWN_PROBLEMS
    return [*problems[:SHOWN_PROBLEMS], Problem(f"and {more:,} more problems; {good:,} rows are good")]
