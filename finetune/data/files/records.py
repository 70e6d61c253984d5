"""A record is one entry of a data file, and keeps the place where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune.errors import DataError

MAX_RECORD_BYTES = 8 * 2**20
"""A record of more bytes is refused; no base reads that much at once, and reading stays within bounds."""

EXAMPLE = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'


@dataclass(frozen=True)
class Raw:
    """One record as it stands in its file, not parsed yet where it is a line of JSON."""

    line: int
    """The line of the file where the record starts, or the number of its row (Parquet, Excel), from 1."""
    value: bytes | dict[str, Any]
    """A line of JSON Lines is left as bytes, so that another process can parse it; all else is a dict."""


@dataclass(frozen=True)
class LeftOut:
    """A record that is not learnt, by its own word."""

    why: str


@dataclass(frozen=True)
class Format:
    """What a file holds, as its content tells."""

    name: str
    """`JSON Lines`, `JSON list`, `JSON object of rows`, `CSV`, `CSV (;)`, `CSV (|)`, `TSV`, `Parquet`, `Excel`, `text`,
    `Markdown` or `XML`."""
    gzip: bool = False
    unit: str = "line"
    """What `Raw.line` counts: `line` or `row`."""
    note: str = ""
    """What else is to be told of the file: the sheets that are not read."""


def no_rows(where: str) -> DataError:
    """Says that a file holds nothing."""
    return DataError("the file holds no rows", where=where, why="there is nothing to learn", fix=EXAMPLE)


def place(shown: str, fmt: Format, line: int) -> str:
    """Names a record as an error does: `file:12`, or `file:row 12`."""
    return f"{shown}:{line}" if fmt.unit == "line" else f"{shown}:row {line}"
