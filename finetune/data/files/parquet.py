"""Parquet: rows of typed columns, read a batch at a time and given as plain text, numbers, lists and objects."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

from finetune.data.files.heads import suggested_names
from finetune.data.files.opening import opened_anywhere, renamed
from finetune.data.files.records import MAX_RECORD_BYTES, Format, Raw, place
from finetune.data.files.row_bytes import row_bytes
from finetune.data.files.row_groups import BATCH_BYTES, opened_table, way_through
from finetune.errors import DataError, OutsideError, Problem


class NotPlain(Exception):
    """A value that has no form in JSON: the field it stands in, and what it is."""

    def __init__(self, field: str, what: str) -> None:
        super().__init__(what)
        self.field, self.what = field, what


@dataclass(frozen=True)
class TooLong:
    """In place of a row: its longest column, and the bytes of all."""

    column: str
    size: int


def parquet(file: Path, shown: str, fmt: Format) -> Iterator[Raw | Problem]:
    """Yields the rows.

    Raises:
        DataError: the file is cut off or damaged, two columns have one name, or a row is too long.
        OutsideError: pyarrow is not installed.
    """
    try:
        import pyarrow
    except ModuleNotFoundError:
        why = "Parquet is read by pyarrow"
        raise OutsideError("pyarrow is not installed", where=shown, why=why, fix="pip install pyarrow") from None
    number = 0
    with opened_anywhere(file, shown) as stream:
        rows = (row for batch in _batches(stream, shown, fmt) for row in _rows(batch))
        while True:
            try:
                row = next(rows, None)
            except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
                raise _damaged(shown, error) from None
            if row is None:
                return
            number += 1
            yield _record(row, number, shown, fmt)


def _batches(stream: BinaryIO, shown: str, fmt: Format) -> Iterator[Any]:
    """Yields the rows of a file, some at a time."""
    from pyarrow.parquet import ParquetFile

    metadata = ParquetFile(stream).metadata
    _check_names(metadata.schema.to_arrow_schema(), shown)
    first = 1
    for number in range(metadata.num_row_groups):
        way = way_through(stream, metadata, number, place(shown, fmt, first), shown)
        table = opened_table(stream, metadata, way.swelling)
        yield from table.iter_batches(way.rows, row_groups=[number], use_threads=False)
        first += metadata.row_group(number).num_rows


def _check_names(schema: Any, shown: str) -> None:
    """Refuses two columns of one name, of which a row could hold one only.

    Raises:
        DataError: there are.
    """
    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    if twice:
        code = "import sys, pyarrow.parquet as p; t = p.ParquetFile(sys.argv[1]).read(); "
        code += "p.write_table(t.rename_columns(sys.argv[3:]), sys.argv[2])"
        words = ["python", "-c", code, shown, renamed(shown, "named", ".parquet"), *suggested_names(schema.names)]
        what, why = f'two columns of the table are called "{twice[0]}"', "one of them would be lost"
        raise DataError(what, where=f"{shown}  {twice[0]}", why=why, fix=shlex.join(words))


def _rows(batch: Any) -> Iterator[dict[str, Any] | TooLong]:
    """Yields the rows of a batch; of one that is too long, what it would take."""
    batch.validate(full=True)  # before values are taken out of damaged buffers
    columns = [row_bytes(column) for column in batch.columns]
    sizes = [sum(row) for row in zip(*columns, strict=True)]
    if max(sizes, default=0) <= MAX_RECORD_BYTES and sum(sizes) <= BATCH_BYTES:
        yield from batch.to_pylist()
        return
    for row, size in enumerate(sizes):
        if size <= MAX_RECORD_BYTES:
            yield from batch.slice(row, 1).to_pylist()
        else:
            name = max(zip(columns, batch.schema.names, strict=True), key=lambda column: column[0][row])[1]
            yield TooLong(name, size)


def _record(row: dict[str, Any] | TooLong, number: int, shown: str, fmt: Format) -> Raw | Problem:
    if isinstance(row, TooLong):
        return _too_long(place(shown, fmt, number), row)
    try:
        return Raw(number, {name: _plain(value, name) for name, value in row.items()})
    except NotPlain as error:
        column = error.field.split("[")[0].split(".")[0]
        code = "import sys, pandas; pandas.read_parquet(sys.argv[1]).drop(columns=sys.argv[2]).to_parquet(sys.argv[3])"
        names = [shown, column, renamed(shown, "text", ".parquet")]
        where = f"{place(shown, fmt, number)}  {error.field}"
        why = "training is on text only"
        return Problem(f"the column holds {error.what}", where, why, shlex.join(["python", "-c", code, *names]))


def _plain(value: Any, field: str) -> Any:
    """Gives a value as JSON could hold it; a number that is none (NaN) is how a column says that it has no value.

    Raises:
        NotPlain: it has no such form.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            if math.isinf(value):
                raise NotPlain(field, "an infinite number")
            return None if math.isnan(value) else value
        case dict():
            return {str(key): _plain(inner, f"{field}.{key}") for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner, f"{field}[{i}]") for i, inner in enumerate(value)]
        case bytes():
            try:
                return value.decode("utf-8")
            except UnicodeDecodeError:
                raise NotPlain(field, f"{len(value):,} bytes that are not text") from None
        case datetime() | date() | time():
            return value.isoformat()
        case Decimal() | timedelta():
            return str(value)
        case _:
            raise NotPlain(field, f"a value of type {type(value).__name__}")


def _too_long(where: str, row: TooLong) -> Problem:
    why = f"it would take {row.size:,} bytes; a row has at most {MAX_RECORD_BYTES:,}"
    return Problem("the row is too long", f"{where}  {row.column}", why, f"shorten {row.column}, or remove the row")


def _damaged(shown: str, error: Exception) -> DataError:
    why = " ".join(str(error).split())[:200]
    code = f"import pyarrow.parquet as p; print(p.ParquetFile({json.dumps(shown)}).metadata)"
    fix = f"python -c {shlex.quote(code)}"
    return DataError("the Parquet file is cut off or damaged", where=shown, why=why, fix=fix)
