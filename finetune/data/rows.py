"""Reads JSON Lines; a wrong row is named by file, line and field, and none is skipped in silence."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.dialects import conversion
from finetune.data.messages import Row, row_from
from finetune.data.strict_json import WrongJson, kind, read_json
from finetune.errors import DataError, Problem
from finetune.recipe.encodings import guess_encoding

MAX_LINE_BYTES = 8 * 2**20
SHOWN_PROBLEMS, SHOWN_OF_A_KIND = 20, 3

EXAMPLE = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'


def read_rows(file: Path) -> list[Row]:
    """Reads every row of a file.

    Raises:
        DataError: the file cannot be read, is empty or not JSON Lines, or rows of it cannot be learnt from;
            the first three of a kind are told, twenty in all, and the others counted.
    """
    rows: list[Row] = []
    problems: list[Problem] = []
    kinds: Counter[str] = Counter()
    shown = shown_name(file)
    for line, text in _lines(file, shown):
        place = f"{shown}:{line}"
        value, problem = _parse(text, place, shown)
        found = problem or row_from(value, place, shown)
        if isinstance(found, Row):
            rows.append(found)
            continue
        if problem and not rows and not kinds and (other := _other_format(file, shown)):
            raise other
        kinds[found.what] += 1
        if len(problems) < SHOWN_PROBLEMS and kinds[found.what] <= SHOWN_OF_A_KIND:
            problems.append(found)
    if more := kinds.total() - len(problems):
        problems.append(Problem(f"and {more:,} more problems; {len(rows):,} rows are good"))
    if problems:
        raise DataError.of(problems)
    if not rows:
        raise DataError("the file holds no rows", where=f"{shown}:1", why="there is nothing to learn", fix=EXAMPLE)
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
                    raise _long_line(file, shown, number)
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield number, line
    except OSError as error:
        why = error.strerror or str(error)
        raise DataError("the data cannot be read", where=shown, why=why, fix=f"ls -l {shlex.quote(shown)}") from None


def _long_line(file: Path, shown: str, number: int) -> DataError:
    what, why = "the line is too long for a row", f"a row has at most {MAX_LINE_BYTES:,} bytes"
    fix = conversion(file, shown) or f"awk 'length > {MAX_LINE_BYTES} {{print NR}}' {shlex.quote(shown)}"
    return DataError(what, where=f"{shown}:{number}", why=why, fix=fix)


def _parse(text: bytes, place: str, shown: str) -> tuple[Any, Problem | None]:
    """Parses one line; gives the value or what is wrong with it."""
    try:
        value = read_json(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        why = f"byte {error.start} of the line is 0x{text[error.start]:02x}"
        name, fixed = shlex.quote(shown), shlex.quote(f"{Path(shown).with_suffix('')}.utf8.jsonl")
        return None, Problem(
            "the line is not UTF-8", place, why, f"iconv -f {guess_encoding(text)} -t utf-8 {name} > {fixed}"
        )
    except WrongJson as error:
        return None, Problem("the line is not JSON", place, error.why, error.fix)
    if not isinstance(value, dict):
        return None, Problem("a row is a JSON object", place, f"it is {kind(value)}", EXAMPLE)
    return value, None


def _other_format(file: Path, shown: str) -> DataError | None:
    """Recognises the formats that are not JSON Lines, to say how to convert them."""
    fix = conversion(file, shown)
    if not fix:
        return None
    return DataError("the file is not JSON Lines", where=f"{shown}:1", why="each line must hold one row", fix=fix)
