"""Reads the columns that a recipe names: paths into a record, texts with places, one column looked up by another.

answer                       the column of that name, whatever its name holds
table.rows                   a path; through a list it goes into each element
options[answer_idx]          an element by number or letter, a value by key, or what a list of true/false marks
"{context}\\n\\n{question}"    a text with any of these in its places
[context, question]          several, a blank line between them; empty ones leave none
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from finetune.data.strict_json import MAX_DEPTH
from finetune.data.wrong import WrongField

Column = str | tuple[str, ...]

_PLACE = re.compile(r"\{([^{}]+)\}")
_LOOKED_UP = re.compile(r"(.+)\[(.+)\]")


def written(record: Mapping[str, Any], column: Column) -> str:
    """Gives what a column says, as text.

    Raises:
        WrongField: the record has no such column.
    """
    if not isinstance(column, str):
        return "\n\n".join(text for each in column if (text := written(record, each)).strip())
    if column not in record and _PLACE.search(column):
        return _PLACE.sub(lambda found: as_text(found_at(record, found[1].strip())), column)
    return as_text(found_at(record, column))


def names_of(column: Column) -> set[str]:
    """Lists the columns of a record that a column of the recipe may read."""
    if not isinstance(column, str):
        return {name for each in column for name in names_of(each)}
    paths = _PLACE.findall(column) or [column]
    parts = [part for path in paths for part in re.split(r"[\[\]]", path) if part]
    return {name for part in parts for name in (part, part.split(".")[0])} | {column}


def found_at(record: Mapping[str, Any], path: str) -> Any:
    """Finds what a path leads to.

    Raises:
        WrongField: it leads nowhere.
    """
    if path in record:
        return record[path]
    if path.count("[") > MAX_DEPTH:
        why = f"it has {path.count('[')} brackets; no record is deeper than {MAX_DEPTH} levels"
        raise WrongField(path[:60] + "…", "the path looks up too much", why, "name a column in data.columns")
    if looked_up := _LOOKED_UP.fullmatch(path):
        return _chosen(found_at(record, looked_up[1]), found_at(record, looked_up[2]), path)
    value: Any = record
    for name in path.split("."):
        value = _inside(value, name, path, list(record))
    return value


def as_text(value: Any) -> str:
    """Writes a value as a person would: lists as lines, tables as rows of cells, objects as `key: value` lines."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return "\n".join(" | ".join(map(as_text, v)) if isinstance(v, list | tuple) else as_text(v) for v in value)
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {as_text(inner)}" for key, inner in value.items())
    return json.dumps(value, ensure_ascii=False)


def _inside(value: Any, name: str, path: str, columns: list[str]) -> Any:
    if isinstance(value, list):
        return [_inside(inner, name, path, columns) for inner in value]
    if isinstance(value, Mapping) and name in value:
        return value[name]
    what = f"the row has no column {path}"
    raise WrongField(path, what, f"it has {', '.join(columns[:8])}", "name one of these in data.columns")


def _chosen(options: Any, by: Any, path: str) -> Any:
    """Looks one column up by another."""
    if isinstance(by, list) and len(by) == 1 and not isinstance(by[0], bool):
        by = by[0]
    if isinstance(by, list) and isinstance(options, list) and len(by) == len(options):
        return [option for option, mark in zip(options, by, strict=True) if mark is True or mark == 1]
    if isinstance(options, Mapping) and as_text(by) in options:
        return options[as_text(by)]
    number = _number(by)
    if isinstance(options, list) and number is not None and 0 <= number < len(options):
        return options[number]
    why = f"{as_text(by)[:40]!r} is neither the number, the letter nor the key of one of {as_text(options)[:60]!r}"
    raise WrongField(path, f"{path} chooses nothing", why, "name the column of the answer itself")


def _number(by: Any) -> int | None:
    """Reads the index that a number, or a letter from A, names."""
    if isinstance(by, bool):
        return None
    if isinstance(by, int):
        return by
    if isinstance(by, str) and by.strip().isascii() and by.strip().isdigit():
        return int(by)
    if isinstance(by, str) and re.fullmatch(r"\(?[A-Za-z]\)?\.?", by.strip()):
        return ord(by.strip("(). ").upper()) - ord("A")
    return None
