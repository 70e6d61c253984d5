"""Whether a text repeats rows of the data: every stretch of so many letters is compared, however it is set.

Only letters and digits count, in lower case: JSON's escapes, HTML's and line breaks hide nothing.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from finetune.data import Row, read
from finetune.recipe import Recipe

STRETCH = 40
"""Letters of a row that, word for word, are no chance."""

PROBE = STRETCH // 2
"""Letters after which a row is probed: of any stretch one such piece, as they lie end to end, is a whole part."""


def row_texts(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yields each text of every row, learnt or held out, and which row it is; the recipe's own system prompt is none.

    Raises:
        DataError: the rows are not there any more, or cannot be read.
        OutsideError: a data set of the Hub cannot be downloaded.
    """
    for row, _ in read(recipe).rows():
        for text in _texts(row):
            if text != recipe.system:
                yield text, row.place


def item_texts(file: Path) -> Iterator[tuple[str, str]]:
    """Yields what was asked, expected and answered in an evaluation, and where it stands; nothing if there was none."""
    if not file.is_file():
        return
    with file.open(encoding="utf-8") as opened:
        for number, line in enumerate(opened, 1):
            told = {key: value for key, value in json.loads(line).items() if key not in ("task", "place")}
            for text in _strings(_opened(told)):
                yield text, f"{file.name}:{number}"


def repeated(rows: Iterable[tuple[str, str]], files: dict[str, Path]) -> Iterator[tuple[str, str]]:
    """Yields each file that repeats a row, and the first row that it repeats.

    Args:
        rows: text, and which row it is.
        files: name -> file of text.
    """
    folded = {name: _fold(_said(file)) for name, file in files.items()}
    stretches = {name: set(_pieces(text, STRETCH)) for name, text in folded.items()}
    probes = {piece for text in folded.values() for piece in _pieces(text, PROBE)}
    found: dict[str, str] = {}
    told: set[int] = set()
    for text, place in rows if probes else ():
        if hash(text) in told:  # a system prompt stands in every row
            continue
        told.add(hash(text))
        said = _suspected(_fold(text), probes)
        for name, there in stretches.items() if said else ():
            if name not in found and not said.isdisjoint(there):
                found[name] = place
    yield from found.items()


def _suspected(folded: str, probes: set[int]) -> set[int]:
    """Hashes the stretches of a row around each piece that some file has too; the others stand in none."""
    found: set[int] = set()
    last = len(folded) - STRETCH
    for start in range(0, len(folded) - PROBE + 1, PROBE) if last >= 0 else ():
        if hash(folded[start : start + PROBE]) in probes:
            begins = range(max(0, start + PROBE - STRETCH), min(start, last) + 1)
            found.update(hash(folded[begin : begin + STRETCH]) for begin in begins)
    return found


def _pieces(folded: str, length: int) -> Iterator[int]:
    """Hashes every piece of so many letters."""
    return (hash(folded[start : start + length]) for start in range(len(folded) - length + 1))


def _texts(row: Row) -> Iterator[str]:
    """Yields what is said in a row and what its tools are given and told to be; and its text, if it is one."""
    if row.text:
        yield str(row.text)
    for message in row.messages:
        for key in ("content", "reasoning_content", "tool_calls"):
            yield from _strings(_opened(message.get(key)))
    yield from _strings(_opened(row.tools))


def _opened(value: Any) -> Any:
    """Reads the arguments of calls where they stand as JSON within a string."""
    if isinstance(value, dict):
        return {key: _opened(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_opened(each) for each in value]
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        try:
            return [value, json.loads(value)]
        except (ValueError, RecursionError):  # a text that only begins so
            return value
    return value


def _said(file: Path) -> str:
    """Reads a file's text as it is read by people: JSON's strings, a page without its tags."""
    text = file.read_text(errors="replace")
    if file.suffix in (".json", ".jsonl"):
        lines = text.splitlines() if file.suffix == ".jsonl" else [text]
        return "\n".join(each for line in lines if line.strip() for each in _strings(json.loads(line)))
    if file.suffix in (".html", ".md", ".svg"):
        return html.unescape(re.sub(r"<[^<>]{0,2000}>", "", text))
    return text


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from _strings(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _strings(each)


def _fold(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())
