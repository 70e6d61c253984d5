"""The head of a table names its columns: each once, and none left out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from finetune.errors import DataError

MAX_NAME_CHARACTERS = 100

_NUMBER = re.compile(r"\s*[-+]?\d[\d.,:/ %-]*\s*")


def what_is_no_head(cells: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """Says why the first row of a table cannot be its head, or nothing.

    Args:
        cells: the first row.
        rows: some that follow.
    """
    for number, cell in enumerate(cells):
        text = str(cell)
        if _NUMBER.fullmatch(text):
            return f"{text.strip()} is a number, not the name of a column"
        if len(text) > MAX_NAME_CHARACTERS or "\n" in text.strip():
            return f"{text[:30]!r}… is too long for the name of a column"
        again = sum(len(row) > number and row[number] == cell and list(row) != list(cells) for row in rows)
        if again > 1 and text.strip():
            return f"{text[:60]!r} stands in rows below too, as a value of the same column"
    return ""


def suggested_names(cells: Sequence[Any], headless: bool = False) -> list[str]:
    """Gives each column a name of its own, and keeps those that are good."""
    names: list[str] = []
    for number, cell in enumerate(cells, 1):
        name = "" if headless else str(cell).strip()
        name = name or ("index" if number == 1 and not headless else f"column{number}")
        while name in names:
            name = f"{name}_{number}"
        names.append(name)
    return names


def check_head(cells: Sequence[Any], rows: Sequence[Sequence[Any]], where: str, fixes: tuple[str, str]) -> list[str]:
    """Gives the names of the columns.

    Args:
        cells: the first row.
        rows: some that follow.
        where: the place of the head.
        fixes: the command that writes another head in its place, and the one that puts a head before it.

    Raises:
        DataError: the first row is no head, a column has no name, or two have the same.
    """
    if why := what_is_no_head(cells, rows):
        raise DataError("the first row of the table is not its head", where=where, why=why, fix=fixes[1])
    names = [str(cell).strip() for cell in cells]
    for number, name in enumerate(names, 1):
        if not name:
            what, why = f"column {number} of the table has no name", "a column is called by its name"
            raise DataError(what, where=where, why=why, fix=fixes[0])
        if name in names[: number - 1]:
            what, why = f'two columns of the table are called "{name}"', "one of them would be lost"
            raise DataError(what, where=where, why=why, fix=fixes[0])
    return names
