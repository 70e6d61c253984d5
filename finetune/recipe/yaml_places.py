"""Reads the small, safe part of YAML 1.2 that a recipe needs, and remembers each key's line.

PyYAML's parser gives the events; the values are ours, because PyYAML's own follow YAML 1.1, where `1e-4`
is a string, `no` is false, `012` is ten, and the second of two equal keys silently wins.
Anchors, aliases and tags are refused: a recipe is data, and a billion laughs is not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from finetune.errors import Problem, RecipeError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16

_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS = {"null": None, "~": None, "": None, "true": True, "false": False}
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")  # as JSON escapes a character beyond U+FFFF
_KEY_VALUE = re.compile(r"(\s*)([\w.-]+):\s+(\S.*)")


@dataclass
class Parsed:
    """A document as plain values, with what is needed to speak of them."""

    name: str
    """The file as the user typed it."""
    value: Any = None
    lines: dict[str, int] = field(default_factory=dict)
    """Dotted key -> line, from 1."""
    written: dict[str, str] = field(default_factory=dict)
    """Dotted key -> a plain scalar as it was written, before it became a number."""
    problems: list[Problem] = field(default_factory=list)
    anchors: dict[str | None, str | None] = field(default_factory=dict)
    """Name of an anchor -> the scalar it stands at, for the fix of an alias."""
    refused: set[str] = field(default_factory=set)
    """Dotted keys that `problems` tell of and whose values are lost."""

    def where(self, line: int, key: str = "") -> str:
        """Says where a line is, as `file:line  key`."""
        return f"{self.name}:{line}" + (f"  {key}" if key else "")


def parse(text: str, name: str) -> Parsed:
    """Parses one YAML document.

    Args:
        text: the document.
        name: the file's name as the user typed it.

    Raises:
        RecipeError: the text is not YAML, too large or nested too deep.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise RecipeError(
            "the recipe is too large",
            where=f"{name}:1",
            why=f"it has more than {MAX_BYTES:,} bytes",
            fix="put the rows in a file of their own and name it in data.train",
        )
    parsed = Parsed(name)
    events = _events(text, name)
    starts = [i for i, event in enumerate(events) if isinstance(event, yaml.DocumentStartEvent)]
    if len(starts) > 1:
        line = events[starts[1]].start_mark.line + 1
        why, fix = "three dashes begin another document", f"keep one recipe in one file: end it before line {line}"
        parsed.problems.append(Problem("the recipe holds more than one document", parsed.where(line), why, fix))
        events = events[: starts[1]]
    body = [event for event in events if isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent)]
    if body:
        parsed.value, _ = _build(body, 0, "", parsed)
    return parsed


def _events(text: str, name: str) -> list[Any]:
    """Lets PyYAML scan the text, no further than a recipe can go: its time is quadratic in the depth."""
    events: list[Any] = []
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            events.append(event)
            if depth > MAX_DEPTH:
                where, why = f"{name}:{events[-1].start_mark.line + 1}", f"it is nested deeper than {MAX_DEPTH} levels"
                raise RecipeError("the recipe is nested too deep", where=where, why=why, fix="a recipe has two levels")
    except yaml.YAMLError as error:
        raise _not_yaml(error, text, name) from None
    return events


def scalar(text: str) -> Any:
    """Gives the value of a plain scalar by the YAML 1.2 core schema, decimal numbers only."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INT.fullmatch(text):
        return int(text) if len(text) < 20 else text
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _build(events: list[Any], at: int, key: str, parsed: Parsed) -> tuple[Any, int]:
    """Builds the value that starts at events[at]; returns it and the index after it."""
    event = events[at]
    line = event.start_mark.line + 1
    parsed.lines[key] = line
    if isinstance(event, yaml.AliasEvent):
        known = parsed.anchors.get(event.anchor)
        fix = f"write out what *{event.anchor} stands for" if known is None else f"{key}: {known}"
        _refuse(parsed, line, key, "aliases (*) are not part of a recipe", fix)
        return None, at + 1
    if event.anchor is not None:
        _refuse(parsed, line, key, "anchors (&) are not part of a recipe", f"delete &{event.anchor}", lost=False)
        parsed.anchors[event.anchor] = event.value if isinstance(event, yaml.ScalarEvent) else None
    if event.tag not in (None, "!"):
        tag = event.tag.replace("tag:yaml.org,2002:", "!!")
        _refuse(parsed, line, key, f"tags such as {tag} are not part of a recipe", f"delete {tag}; write a plain value")
        return _skip(events, at)
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event, line, key, parsed), at + 1
    if isinstance(event, yaml.SequenceStartEvent):
        return _sequence(events, at + 1, key, parsed)
    return _mapping(events, at + 1, key, parsed)


def _scalar(event: Any, line: int, key: str, parsed: Parsed) -> Any:
    text = _PAIR.sub(lambda pair: pair.group().encode("utf-16", "surrogatepass").decode("utf-16"), event.value)
    if found := UNPRINTABLE.search(text):
        _refuse(parsed, line, key, f"it holds the character U+{ord(found.group()):04X}", "delete that character")
        return None
    if event.style is not None:
        return text
    parsed.written[key] = event.value
    return scalar(event.value)


def _sequence(events: list[Any], at: int, key: str, parsed: Parsed) -> tuple[list[Any], int]:
    items: list[Any] = []
    while not isinstance(events[at], yaml.SequenceEndEvent):
        item, at = _build(events, at, f"{key}.{len(items)}", parsed)
        items.append(item)
    return items, at + 1


def _mapping(events: list[Any], at: int, key: str, parsed: Parsed) -> tuple[dict[str, Any], int]:
    items: dict[str, Any] = {}
    while not isinstance(events[at], yaml.MappingEndEvent):
        event = events[at]
        line = event.start_mark.line + 1
        if not isinstance(event, yaml.ScalarEvent) or UNPRINTABLE.search(event.value):
            _refuse(parsed, line, key, "a key must be a word", "write `key: value`")
            _, at = _skip(events, at)
            _, at = _skip(events, at)
            continue
        dotted = f"{key}.{event.value}" if key else event.value
        if event.value in items:
            first = parsed.lines[dotted]
            _refuse(
                parsed, line, dotted, f"the key stands twice, first in line {first}", f"delete line {line}", lost=False
            )
            _, at = _skip(events, at + 1)
            continue
        items[event.value], at = _build(events, at + 1, dotted, parsed)
        parsed.lines[dotted] = line
    return items, at + 1


def _skip(events: list[Any], at: int) -> tuple[None, int]:
    """Steps over the whole node that starts at events[at]."""
    depth = 0
    while True:
        if isinstance(events[at], yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(events[at], yaml.CollectionEndEvent):
            depth -= 1
        at += 1
        if depth == 0:
            return None, at


def _refuse(parsed: Parsed, line: int, key: str, why: str, fix: str, *, lost: bool = True) -> None:
    where = parsed.where(line, without_index(key))
    parsed.problems.append(Problem("this is not a recipe's YAML", where, why, fix))
    if lost:
        parsed.refused.add(without_index(key))


def without_index(key: str) -> str:
    """Gives the key of the list in which an item stands."""
    return re.sub(r"(\.[0-9]+)+$", "", key)


def _not_yaml(error: yaml.YAMLError, text: str, name: str) -> RecipeError:
    """Says where the text stops being YAML, and how that line was probably meant."""
    line, column, why = 1, 0, str(error)
    if isinstance(error, yaml.reader.ReaderError):
        line = text[: error.position].count("\n") + 1
        why = f"the character U+{ord(text[error.position]):04X} is not allowed in YAML"
        return RecipeError("the recipe is not YAML", where=f"{name}:{line}", why=why, fix="delete that character")
    if isinstance(error, yaml.MarkedYAMLError):
        opened = "quoted scalar" in (error.context or "") or "flow" in (error.context or "")
        late = opened or (error.problem or "").startswith("could not find expected")
        mark: Any = (error.context_mark if late else None) or error.problem_mark or error.context_mark
        line, column = mark.line + 1, mark.column
        why = ", ".join(part for part in (error.context, error.problem) if part)
    lines = text.splitlines() or [""]
    line, fix = _mended(lines, min(line, len(lines)), column)
    return RecipeError("the recipe is not YAML", where=f"{name}:{line}", why=why, fix=fix)


def _mended(lines: list[str], line: int, column: int) -> tuple[int, str]:
    """Finds the slip that YAML trips over in a line, or in the one before it; gives its line and the cure."""
    source, before = lines[line - 1], lines[line - 2] if line > 1 else ""
    if "\t" in source:
        return line, "replace the tab by spaces: " + source.replace("\t", "  ").rstrip()
    for number, text in ((line, source), (line - 1, before)):
        if re.match(r"\s*\w+:[^\s/]", text):
            return number, "put a space after the colon: " + text.replace(":", ": ", 1).strip()
    if source[column : column + 1] == ":" and ":" not in source[:column]:
        indent = " " * (len(before) - len(before.lstrip()))
        return line, f"indent it as the line above: {indent}{source.strip()}"
    if re.search(r"['\"\[{]", source[column:]) or re.search(r":\s+['\"\[{]", source):
        return line, "close the quote or the bracket that is opened in this line"
    if found := _KEY_VALUE.fullmatch(source):
        return line, f'{found[2]}: "{found[3].strip()}"'
    return line, "write `key: value`, with spaces for indentation"
