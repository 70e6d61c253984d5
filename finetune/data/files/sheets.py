"""Looks through the parts of a workbook before a table is made of them: what is too long, and what comes out empty."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from finetune.data.files.records import MAX_RECORD_BYTES
from finetune.data.files.xml_events import Event, xml_events
from finetune.errors import DataError

MOST_WHOLE_BYTES = 256 * 2**20
"""Of a part that openpyxl holds as a whole, as all texts of a workbook are."""

SHEETS, TEXTS = "xl/worksheets/", "xl/sharedStrings.xml"


@dataclass
class Seen:
    """What a sheet holds that a reader of its values does not see."""

    merged: int = 0
    first_merged: str = ""
    """The first range of cells that are one; all but its first cell are empty."""
    uncalculated: int = 0
    first_uncalculated: str = ""
    """The first cell whose formula has no value yet."""

    def told(self) -> Iterator[str]:
        """Says it in words."""
        if self.merged:
            ranges = "range of merged cells has" if self.merged == 1 else "ranges of merged cells have"
            yield f"{self.merged:,} {ranges} a value in the first cell alone, first {self.first_merged}"
        if self.uncalculated:
            formulas = "formula has" if self.uncalculated == 1 else "formulas have"
            told = f"{self.uncalculated:,} {formulas} no value yet, first {self.first_uncalculated}"
            yield f"{told}: until the file is saved in Excel or LibreOffice, they are empty"


def look_through(stream: BinaryIO, shown: str) -> dict[str, Seen]:
    """Looks through all sheets and texts of a workbook, piece by piece.

    Returns:
        The name of each part -> what it holds.

    Raises:
        DataError: a row or a text is too long for a row, or so many are there that they cannot be held.
        WrongXml: a part is damaged.
        BadZipFile: and other errors of zipfile, where the whole is.
    """
    seen: dict[str, Seen] = {}
    with zipfile.ZipFile(stream) as archive:
        for part in archive.infolist():
            name = part.filename
            if not name.startswith(SHEETS) and part.file_size > MOST_WHOLE_BYTES:
                why = f"unpacked, {name} has {part.file_size:,} bytes; at most {MOST_WHOLE_BYTES:,} are held"
                raise DataError("the workbook is too large", where=shown, why=why, fix="save the sheet as CSV")
            if name.startswith(SHEETS) or name == TEXTS:
                with archive.open(part) as content:
                    place = f"{shown}:row " if name.startswith(SHEETS) else f"{shown}  {name}, text "
                    seen[name] = _look(xml_events(content), place)
    return seen


def _look(events: Iterable[Event], place: str) -> Seen:
    """Looks through a sheet, or through the texts that its cells share."""
    seen = Seen()
    number = size = 0
    cell, inside, in_row, has_formula, has_value = "", "", False, False, False
    for event in events:
        tag = event.told.rpartition(":")[2] if event.kind != "text" else ""
        if event.kind == "start":
            inside, told = tag, event.attributes
            if tag in ("row", "si"):
                number, cell, size, in_row = int(told.get("r", number + 1)), "", 0, True
            elif tag == "c":
                cell, has_formula, has_value = told.get("r", ""), False, told.get("t") == "str"  # an empty text is one
            elif tag == "mergeCell":
                seen.merged += 1
                seen.first_merged = seen.first_merged or told.get("ref", "")
            has_formula = has_formula or tag == "f"
        elif event.kind == "text":
            has_value = has_value or inside == "v"
        else:
            inside, in_row = "", in_row and tag not in ("row", "si")
            if tag == "c" and has_formula and not has_value:
                seen.uncalculated += 1
                seen.first_uncalculated = seen.first_uncalculated or cell or f"in row {number}"
        size += len(event.told) + sum(map(len, event.attributes.values()))
        if in_row and size > MAX_RECORD_BYTES:
            why, fix = f"a row has at most {MAX_RECORD_BYTES:,} bytes", "shorten the text, or remove the row"
            where = f"{place}{number}" + (f"  {cell}" if cell else "")
            raise DataError("the row is too long", where=where, why=why, fix=fix)
    return seen
