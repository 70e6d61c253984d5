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

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS = {"null": None, "~": None, "": None, "true": True, "false": False}


@dataclass
class Parsed:
    """A document as plain values, with `lines` from dotted key to line (from 1) and what was wrong."""

    name: str
    value: Any = None
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def where(self, line: int, key: str = "") -> str:
        return f"{self.name}:{line}" + (f"  {key}" if key else "")


def parse(text: str, name: str) -> Parsed:
    """Parses one YAML document.

    Args:
        text: the document.
        name: the file's name as the user typed it.

    Raises:
        RecipeError: the text is not YAML, too large, or holds several documents.
    """
    if len(text.encode()) > MAX_BYTES:
        raise RecipeError(
            "the recipe is too large",
            where=name,
            why=f"{len(text.encode()):,} bytes; a recipe has at most {MAX_BYTES:,}",
            fix="put the rows in a file of their own and name it in data.train",
        )
    parsed = Parsed(name)
    try:
        events = list(yaml.parse(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError) as error:
        raise _not_yaml(error, text, name) from None
    starts = [event for event in events if isinstance(event, yaml.DocumentStartEvent)]
    if len(starts) > 1:
        raise RecipeError(
            "the recipe holds more than one document",
            where=f"{name}:{starts[1].start_mark.line + 1}",
            why="a line of three dashes starts another document",
            fix="keep one recipe in one file",
        )
    body = [event for event in events if isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent)]
    if body:
        parsed.value, _ = _build(body, 0, "", 0, parsed)
    return parsed


def scalar(text: str) -> Any:
    """Gives the value of a plain scalar by the YAML 1.2 core schema, decimal numbers only."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INT.fullmatch(text):
        return int(text) if len(text) < 20 else text
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _build(events: list[Any], at: int, key: str, depth: int, parsed: Parsed) -> tuple[Any, int]:
    """Builds the value that starts at events[at]; returns it and the index after it."""
    event = events[at]
    line = event.start_mark.line + 1
    parsed.lines[key] = line
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        _refuse(parsed, line, key, "anchors and aliases are not part of a recipe", "write the value out")
        return (None, at + 1) if isinstance(event, yaml.AliasEvent) else _skip(events, at)
    if event.tag not in (None, "!"):
        _refuse(parsed, line, key, f"the tag {event.tag} is not part of a recipe", "write a plain value")
        return _skip(events, at)
    if depth > MAX_DEPTH:
        _refuse(parsed, line, key, f"nested deeper than {MAX_DEPTH} levels", "a recipe has two levels")
        return _skip(events, at)
    if isinstance(event, yaml.ScalarEvent):
        return (scalar(event.value) if event.style is None else event.value), at + 1
    if isinstance(event, yaml.SequenceStartEvent):
        return _sequence(events, at + 1, key, depth, parsed)
    return _mapping(events, at + 1, key, depth, parsed)


def _sequence(events: list[Any], at: int, key: str, depth: int, parsed: Parsed) -> tuple[list[Any], int]:
    items: list[Any] = []
    while not isinstance(events[at], yaml.SequenceEndEvent):
        item, at = _build(events, at, f"{key}.{len(items)}", depth + 1, parsed)
        items.append(item)
    return items, at + 1


def _mapping(events: list[Any], at: int, key: str, depth: int, parsed: Parsed) -> tuple[dict[str, Any], int]:
    items: dict[str, Any] = {}
    while not isinstance(events[at], yaml.MappingEndEvent):
        event = events[at]
        line = event.start_mark.line + 1
        if not isinstance(event, yaml.ScalarEvent):
            _refuse(parsed, line, key, "a key must be a word", "write `key: value`")
            _, at = _skip(events, at)
            _, at = _skip(events, at)
            continue
        dotted = f"{key}.{event.value}".lstrip(".")
        if event.value in items:
            first = parsed.lines[dotted]
            _refuse(parsed, line, dotted, f"the key stands twice, first in line {first}", "keep one of them")
            _, at = _skip(events, at + 1)
            continue
        items[event.value], at = _build(events, at + 1, dotted, depth + 1, parsed)
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


def _refuse(parsed: Parsed, line: int, key: str, why: str, fix: str) -> None:
    parsed.problems.append(Problem("this is not a recipe's YAML", parsed.where(line, key), why, fix))


def _not_yaml(error: Exception, text: str, name: str) -> RecipeError:
    line, why = 1, "nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        why = " ".join(part for part in (error.context, error.problem) if part)
    elif isinstance(error, yaml.reader.ReaderError):
        line = text[: error.position].count("\n") + 1
        why = f"the character U+{ord(str(error.character)[:1]):04X} is not allowed in YAML"
    lines = text.splitlines()
    source = lines[line - 1] if line <= len(lines) else ""
    fix = "write `key: value`, with spaces for indentation"
    if "\t" in source:
        fix = "replace the tab by spaces: " + source.replace("\t", "  ").rstrip()
    elif re.match(r"\s*[\w.]+:\S", source):
        fix = "put a space after the colon: " + re.sub(r":(?=\S)", ": ", source, count=1).strip()
    return RecipeError("the recipe is not YAML", where=f"{name}:{line}", why=why, fix=fix)
