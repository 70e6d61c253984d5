"""Reads any usual data file into records: JSON Lines, JSON, CSV, TSV, Parquet, Excel, XML, text; gzip around any.

What a file holds is found by its content. A record keeps its place, so that an error names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from finetune.data.files.delimited import SEPARATORS, delimited
from finetune.data.files.documents import document
from finetune.data.files.folder import data_files, look_into
from finetune.data.files.json_lines import json_lines, parse
from finetune.data.files.json_texts import json_list, json_object
from finetune.data.files.parquet import parquet
from finetune.data.files.records import EXAMPLE, MAX_RECORD_BYTES, Format, LeftOut, Raw, no_rows, place
from finetune.data.files.sniffing import sniff
from finetune.data.files.workbook import workbook
from finetune.data.files.xml_records import xml_records
from finetune.errors import Problem

__all__ = [
    "EXAMPLE",
    "MAX_RECORD_BYTES",
    "Format",
    "LeftOut",
    "Raw",
    "data_files",
    "look_into",
    "no_rows",
    "parse",
    "place",
    "read_raw",
    "sniff",
]

_READERS: dict[str, Callable[[Path, str, Format], Iterator[Raw | Problem | LeftOut]]] = {
    "JSON Lines": json_lines,
    "JSON list": json_list,
    "JSON object of rows": json_object,
    "Parquet": parquet,
    "Excel": workbook,
    "XML": xml_records,
    "text": document,
    "Markdown": document,
    **dict.fromkeys(SEPARATORS, delimited),
}


def read_raw(file: Path, shown: str, fmt: Format | None = None) -> Iterator[Raw | Problem | LeftOut]:
    """Yields the records of a file, what is wrong with one of them or why it is left out, in the file's order.

    Memory holds one record or one batch; of an object of rows, of text and of Markdown the whole file.

    Args:
        file: the file.
        shown: how errors name it.
        fmt: what `sniff` said of it; without it the file is looked at again.

    Raises:
        DataError: the file cannot be read further, holds no rows, or is of a format that is not read.
        OutsideError: the package that reads its format is not installed.
    """
    fmt = fmt or sniff(file, shown)
    count = 0
    for count, found in enumerate(_READERS[fmt.name](file, shown, fmt), 1):  # noqa: B007
        yield found
    if not count:
        raise no_rows(place(shown, fmt, 1))
