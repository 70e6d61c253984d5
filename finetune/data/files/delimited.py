"""CSV and TSV: a head that names the columns, then rows; a quoted field may hold separators and line breaks."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from finetune.data.files.heads import check_head, suggested_names, what_is_no_head
from finetune.data.files.opening import not_utf8, numbered_lines, printing, renamed
from finetune.data.files.records import MAX_RECORD_BYTES, Format, Raw
from finetune.errors import DataError, Problem

SEPARATORS = {"CSV": ",", "TSV": "\t", "CSV (;)": ";", "CSV (|)": "|"}
"""The format -> what stands between its fields."""

LOOKED_AT = 50
"""Rows that are looked at to find the separator, and to know a head from a row."""

MAX_NAME_WORDS = 5

Fields = tuple[int, list[str] | Problem]
"""A line where a record starts, and its fields or what is wrong with them."""


def delimited(file: Path, shown: str, fmt: Format) -> Iterator[Raw | Problem]:
    """Yields the rows of a table; all values are text, and an empty field is empty text.

    Raises:
        DataError: it has no head, a quote is never closed, it is not UTF-8, or it cannot be read.
    """
    separator = SEPARATORS[fmt.name]
    rows = _fields(file, shown, fmt)
    head_line, head = next(rows, (1, []))
    if isinstance(head, Problem):
        raise DataError.of([head])
    first = list(islice(rows, LOOKED_AT))
    fields = [row for _, row in first if isinstance(row, list)]
    fixes = _head_fixes(head, head_line, separator, shown, fmt.gzip)
    names = check_head(head, fields, f"{shown}:{head_line}", fixes)
    for line, row in chain(first, rows):
        if isinstance(row, Problem):
            yield row
        elif len(row) == len(names):
            yield Raw(line, dict(zip(names, row, strict=True)))
        else:
            yield _uneven(row, names, separator, f"{shown}:{line}")


def delimited_name(head: str, whole: bool, named_so: bool) -> str:
    """Finds the separator of the table that a text begins as, or gives nothing where it is no table.

    Args:
        head: the beginning of the file.
        whole: whether that is all of it.
        named_so: whether the file is called a table; this decides only where the content leaves it open.
    """
    found: list[tuple[float, int, str]] = []
    for name, separator in SEPARATORS.items():
        rows = _first_rows(head, whole, separator)
        width = len(rows[0]) if rows else 0
        if width < 2:
            continue
        alike = sum(len(row) == width for row in rows) / len(rows)
        if named_so or (alike >= 0.8 and _looks_like_a_table(rows, separator, whole)):
            found.append((alike, width, name))
    if found:
        return max(found)[2]
    return "CSV" if named_so else ""


def _first_rows(head: str, whole: bool, separator: str) -> list[list[str]]:
    """Cuts a text into rows; the last is left out where it may be cut off."""
    csv.field_size_limit(MAX_RECORD_BYTES)
    try:
        reader = csv.reader(io.StringIO(head, newline=""), delimiter=separator)
        rows = [row for row in islice(reader, LOOKED_AT) if row]
    except csv.Error:
        return []
    return rows if whole or len(rows) in (1, LOOKED_AT) else rows[:-1]


def _looks_like_a_table(rows: list[list[str]], separator: str, whole: bool) -> bool:
    """Knows a table from prose with as many commas in each line."""
    head = rows[0]
    if len(rows) == 1 and whole:
        return False
    if separator == "\t":
        return all(cell.strip() for cell in head)  # not paragraphs that begin with a tab
    named = all(0 < len(cell.split()) <= MAX_NAME_WORDS and cell.strip()[-1] not in ".!?…:" for cell in head)
    return named and len(set(head)) == len(head) and not what_is_no_head(head, rows[1:])


def _fields(file: Path, shown: str, fmt: Format) -> Iterator[Fields]:
    """Yields the line where each record starts, and its fields."""
    csv.field_size_limit(MAX_RECORD_BYTES)
    separator = SEPARATORS[fmt.name]
    lines = _decoded(file, shown, fmt.gzip)
    head = next(lines, "")
    spaced = separator != "\t" and 0 < head.count(separator) == head.count(f"{separator} ")  # `a, b` in every row
    reader = csv.reader(chain([head], lines), delimiter=separator, skipinitialspace=spaced, strict=True)
    while True:
        start = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield start, _quoting(str(error), shown, start, separator)
            continue
        if row is None:
            return
        if row:
            yield start, row


def _decoded(file: Path, shown: str, packed: bool) -> Iterator[str]:
    for number, line in numbered_lines(file, shown):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            raise not_utf8(shown, number, line, packed) from None
        if "\0" in text:
            why, fix = "the line holds the character U+0000, which no text does", f"file {shlex.quote(shown)}"
            raise DataError("the file is not text", where=f"{shown}:{number}", why=why, fix=fix)
        yield text


def _quoting(error: str, shown: str, line: int, separator: str) -> Problem:
    """Tells of quotes that do not work out.

    Raises:
        DataError: one is never closed, so that all the rest of the file stands in one field.
    """
    where = f"{shown}:{line}"
    if error.startswith(("unexpected end", "field larger")):
        what, why = "a quote is never closed", "the field goes on to the end of the file"
        raise DataError(what, where=where, why=why, fix='close it with ", and write a quote inside it as ""')
    if error.startswith("new-line"):
        why = "a line ends in CR alone"
        fix = f"tr '\\r' '\\n' < {shlex.quote(shown)} > {shlex.quote(renamed(shown, 'lines'))}"
        return Problem("the line breaks of the table are mixed", where, why, fix)
    why = f"a field that begins with a quote ends with one, before the next {separator!r}"
    return Problem("the quotes of the row do not work out", where, why, 'write a quote inside a quoted field as ""')


def _uneven(row: list[str], names: list[str], separator: str, where: str) -> Problem:
    """Tells of a row that has not as many fields as the head."""
    why = f"fields in it: {len(row)}; in the head: {len(names)} ({', '.join(names[:6])})"
    if len(row) < len(names):
        missing = separator * (len(names) - len(row))
        return Problem("the row has fewer fields than the head", where, why, f"add what is missing, or {missing!r}")
    return Problem(
        "the row has more fields than the head", where, why, f'put a field that holds {separator!r} in quotes: "..."'
    )


def _head_fixes(head: list[str], line: int, separator: str, shown: str, packed: bool) -> tuple[str, str]:
    """Writes the commands that replace a head, and that put one before the first row."""
    source, target = printing(shown, packed), shlex.quote(renamed(shown, "named"))
    rest = line + 1 + sum(cell.count("\n") for cell in head)
    heads = [_printf(suggested_names(head, headless), separator) for headless in (False, True)]
    replaced = f"{{ {heads[0]}; {source} | tail -n +{rest}; }} > {target}"
    return replaced, f"{{ {heads[1]}; {source} | sed '1s/^\\xef\\xbb\\xbf//'; }} > {target}"


def _printf(names: list[str], separator: str) -> str:
    line = io.StringIO()
    csv.writer(line, delimiter=separator, lineterminator="").writerow(names)
    told = line.getvalue().replace("\\", "\\\\").replace("%", "%%").replace("\t", "\\t")
    return f"printf {shlex.quote(told + chr(92) + 'n')}"
