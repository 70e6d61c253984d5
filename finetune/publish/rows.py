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
            for text in _strings(told):
                yield text, f"{file.name}:{number}"


def repeated(rows: Iterable[tuple[str, str]], files: dict[str, Path]) -> Iterator[tuple[str, str]]:
    """Yields each file that repeats a row, and the first row that it repeats.

    Args:
        rows: text, and which row it is.
        files: name -> file of text.
    """
    stretches = {name: _stretches(_fold(_said(file)), 1) for name, file in files.items()}
    found: dict[str, str] = {}
    for text, place in rows if any(stretches.values()) else ():
        said = _stretches(_fold(text), STRETCH)
        for name, there in stretches.items():
            if name not in found and not said.isdisjoint(there):
                found[name] = place
    yield from found.items()


def _stretches(folded: str, step: int) -> set[int]:
    """Hashes stretches that begin at every so many letters: of a file all, of a row those that lie end to end."""
    return {hash(folded[start : start + STRETCH]) for start in range(0, len(folded) - STRETCH + 1, step)}


def _texts(row: Row) -> Iterator[str]:
    """Yields what is said in a row, and its text, if it is one."""
    if row.text:
        yield str(row.text)
    for message in row.messages:
        for key in ("content", "reasoning_content"):
            if isinstance(told := message.get(key), str):
                yield told


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
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)


def _fold(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))
