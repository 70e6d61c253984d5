"""Excel: the first sheet that has rows is the table; its first row is the head.

openpyxl reads it row by row. A faster reader (python-calamine) was weighed: it holds a sheet as one dense block, so
that a lone cell in the far corner ends the process, and it gives a cell that holds an error as an empty one.
"""

from __future__ import annotations

import shlex
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from finetune.data.files.heads import check_head
from finetune.data.files.opening import opened_anywhere
from finetune.data.files.records import MAX_RECORD_BYTES, Format, Raw, place
from finetune.data.files.sheets import look_through
from finetune.data.files.xml_events import WrongXml
from finetune.errors import DataError, OutsideError, Problem

LOOKED_AT = 50
BATCH_ROWS = 16
"""Rows that are held at a time, of which each may have MAX_RECORD_BYTES."""

ERRORS = ("#N/A", "#REF!", "#DIV/0!", "#VALUE!", "#NAME?", "#NULL!", "#NUM!")

MOST_ROWS = 2**20
"""Of a sheet. Source: Excel specifications and limits, Microsoft."""

DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, SyntaxError, EOFError, OSError),
    *(KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, NotImplementedError),
)
"""What openpyxl raises on files that are not as they should be; it has no error of its own for them.

Bad XML is a SyntaxError, whether the standard library reads it or lxml, which openpyxl prefers where it is installed.
"""

Row = tuple[int, list[Any]]
"""The number of a row, from 1, and its cells; None is an empty one."""


def workbook(file: Path, shown: str, fmt: Format) -> Iterator[Raw | Problem]:
    """Yields the rows of the first sheet that has some.

    Raises:
        DataError: the file is cut off or damaged, or the table has no head.
        OutsideError: openpyxl is not installed.
    """
    with opened_anywhere(file, shown) as stream:
        title, _, _, rows = _first_sheet(stream, shown)
        head_row = next(rows, None)
        if head_row is None:
            return
        number, head = head_row[0], _without_end(head_row[1])
        first = list(islice(rows, LOOKED_AT))
        fix = f'write the names of the columns into row {number} of the sheet "{title}"'
        cells = ["" if cell is None else cell for cell in head]
        names = check_head(cells, [row for _, row in first], place(shown, fmt, number), (fix, fix))
        for number, row in chain(first, rows):
            yield _record(names, row, number, place(shown, fmt, number))


def sheets_note(stream: BinaryIO, shown: str) -> str:
    """Says which sheet is read, which are not, and what comes out empty of it; nothing where there is nothing to say.

    Raises:
        DataError: the file is cut off or damaged, or a row of it is too long.
        OutsideError: openpyxl is not installed.
    """
    try:
        seen = look_through(stream, shown)
    except (*DAMAGED, WrongXml) as error:
        raise _damaged(shown, error) from None
    title, part, others, _ = _first_sheet(stream, shown)
    told = [f'the sheet "{title}" is read; not read: {", ".join(others)}'] if others else []
    return "; ".join([*told, *(seen[part].told() if part in seen else ())])


def _first_sheet(stream: BinaryIO, shown: str) -> tuple[str, str, list[str], Iterator[Row]]:
    """Finds the first sheet with a row that is not empty: its title and part, the other titles, and its rows."""
    sheets = _sheets(stream, shown)
    titles = [str(sheet.title) for sheet in sheets]
    for title, sheet in zip(titles, sheets, strict=True):
        rows = _rows(sheet, shown)
        if (row := next(rows, None)) is not None:
            part = sheet._worksheet_path  # there is no other name by which to find it in the archive
            return title, part, [other for other in titles if other != title], chain([row], rows)
    return "", "", titles, iter(())


def _sheets(stream: BinaryIO, shown: str) -> list[Any]:
    try:
        from openpyxl import load_workbook
    except ModuleNotFoundError:
        why = "Excel is read by openpyxl"
        raise OutsideError("openpyxl is not installed", where=shown, why=why, fix="pip install openpyxl") from None
    with warnings.catch_warnings(action="ignore"):  # of styles and pictures, which are not read
        try:
            return list(load_workbook(stream, read_only=True, data_only=True, keep_links=False).worksheets)
        except DAMAGED as error:
            raise _damaged(shown, error) from None


def _rows(sheet: Any, shown: str) -> Iterator[Row]:
    """Yields the rows that are not empty."""
    try:
        sheet.reset_dimensions()  # some programs write wrong ones, and rows would be cut to them
        rows = enumerate(sheet.iter_rows(values_only=True), 1)
    except DAMAGED as error:
        raise _damaged(shown, error) from None
    while True:
        with warnings.catch_warnings(action="ignore"):
            try:
                batch = list(islice(rows, BATCH_ROWS))
            except DAMAGED as error:
                raise _damaged(shown, error) from None
        if not batch:
            return
        if batch[-1][0] > MOST_ROWS:
            why, fix = f"a sheet of Excel has {MOST_ROWS:,} rows at most", "save it anew, or as CSV"
            raise DataError("a row of the sheet has a number that no sheet has", where=shown, why=why, fix=fix)
        for number, row in batch:
            if any(cell not in (None, "") for cell in row):
                yield number, list(row)


def _record(names: list[str], row: list[Any], number: int, where: str) -> Raw | Problem:
    row = _without_end(row)
    if len(row) > len(names):
        why = f"cells in it: {len(row)}; in the head: {len(names)} ({', '.join(names[:6])})"
        fix = f"name the column of {str(row[-1])[:30]!r} in the head, or clear the cell"
        return Problem("the row has more cells than the head", where, why, fix)
    for name, cell in zip(names, row, strict=False):
        if cell in ERRORS:
            what, why = f"the cell holds the error {cell}", "it would be learnt as text"
            return Problem(what, f"{where}  {name}", why, "correct its formula, or clear the cell")
    sizes = {name: len(cell) for name, cell in zip(names, row, strict=False) if isinstance(cell, str)}
    if sum(sizes.values()) > MAX_RECORD_BYTES:  # of texts that cells share
        longest, why = max(sizes, key=sizes.__getitem__), f"a row has at most {MAX_RECORD_BYTES:,} bytes"
        return Problem("the row is too long", f"{where}  {longest}", why, f"shorten {longest}, or remove the row")
    cells = [_plain(cell) for cell in row] + [""] * (len(names) - len(row))
    return Raw(number, dict(zip(names, cells, strict=True)))


def _plain(cell: Any) -> Any:
    """Gives a cell as JSON could hold it; a day without an hour stays one."""
    match cell:
        case None:
            return ""
        case datetime():
            return cell.date().isoformat() if cell.time() == time() else cell.isoformat()
        case date() | time():
            return cell.isoformat()
        case timedelta():
            return str(cell)
        case bool() | int() | float() | str():
            return cell
        case _:
            return str(cell)


def _without_end(row: list[Any]) -> list[Any]:
    """Leaves the empty cells at the end off."""
    end = len(row)
    while end and row[end - 1] in (None, ""):
        end -= 1
    return row[:end]


def _damaged(shown: str, error: Exception) -> DataError:
    why, fix = " ".join(str(error).split())[:200] or type(error).__name__, f"unzip -t {shlex.quote(shown)}"
    return DataError("the zip or Excel file is cut off or damaged", where=shown, why=why, fix=fix)
