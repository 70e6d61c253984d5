"""Parquet: rows of typed columns, read a batch at a time and given as plain text, numbers, lists and objects."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from finetune.data.files.opening import opened_anywhere, renamed
from finetune.data.files.records import Format, Raw, place
from finetune.errors import DataError, OutsideError, Problem

BATCH_ROWS = 256


class NotPlain(Exception):
    """A value that has no form in JSON: the field it stands in, and what it is."""

    def __init__(self, field: str, what: str) -> None:
        super().__init__(what)
        self.field, self.what = field, what


def parquet(file: Path, shown: str, fmt: Format) -> Iterator[Raw | Problem]:
    """Yields the rows.

    Raises:
        DataError: the file is cut off or damaged.
        OutsideError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError:
        why = "Parquet is read by pyarrow"
        raise OutsideError("pyarrow is not installed", where=shown, why=why, fix="pip install pyarrow") from None
    number = 0
    with opened_anywhere(file, shown) as stream:
        try:
            batches = ParquetFile(stream).iter_batches(BATCH_ROWS, use_threads=False)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise _damaged(shown, error) from None
        while True:
            try:
                batch = next(batches, None)
                if batch is None:
                    return
                batch.validate(full=True)  # before values are taken out of damaged buffers
                rows = batch.to_pylist()
            except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
                raise _damaged(shown, error) from None
            for row in rows:
                number += 1
                yield _record(row, number, shown, fmt)


def _record(row: dict[str, Any], number: int, shown: str, fmt: Format) -> Raw | Problem:
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


def _damaged(shown: str, error: Exception) -> DataError:
    why = " ".join(str(error).split())[:200]
    code = f"import pyarrow.parquet as p; print(p.ParquetFile({json.dumps(shown)}).metadata)"
    fix = f"python -c {shlex.quote(code)}"
    return DataError("the Parquet file is cut off or damaged", where=shown, why=why, fix=fix)
