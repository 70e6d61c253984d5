"""Reads JSON as the standard has it: each key once, numbers that are numbers, whole characters, no abyss."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

MAX_DEPTH = 64

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class WrongJson(Exception):
    """Says which rule a text breaks, and how to mend it."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why)
        self.why, self.fix = why, fix


def read_json(text: str) -> Any:
    """Parses a text.

    Raises:
        WrongJson: it is not JSON, or JSON that could not be learnt from.
    """
    try:
        value = json.loads(text, object_pairs_hook=_once_each, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise WrongJson(f"{error.msg} at column {error.colno}", _mended(text, error)) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:  # Python's own limit on the digits of a number
        raise WrongJson("a number has thousands of digits", "write it as text, in quotes") from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deep(value):
        raise _too_deep()
    if "\\u" in text and (found := _LONE_SURROGATE.search(json.dumps(value, ensure_ascii=False))):
        escape = f"\\u{ord(found.group()):04x}"
        raise WrongJson(f"the escape {escape} is half a character", f"remove {escape}, or write both halves")
    return value


def kind(value: Any) -> str:
    """Names what a value is, as JSON's own words have it."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            return "text"
        case dict():
            return "an object"
        case list():
            return "a list"
        case _:
            return "a number"


def _mended(text: str, error: json.JSONDecodeError) -> str:
    """Recognises the usual slips."""
    if text.lstrip().startswith("{'") or re.search(r":\s*(None|True|False)\b", text):
        return "write it with json.dumps(row), not str(row)"
    if error.msg.startswith("Extra data"):
        rest = text[error.pos :].strip()
        return "remove the comma at the end of the line" if rest == "," else f"begin a new line at column {error.colno}"
    if re.search(r",\s*[}\]]", text):
        return "remove the comma before the closing bracket"
    return 'write the row in one line, quotes inside text as \\", line breaks as \\n'


def _is_deep(value: Any) -> bool:
    """Measures level by level, so that no depth can exhaust the stack."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [v for v in level if isinstance(v, dict | list)]
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v)]
        if not level:
            return False
    return True


def _too_deep() -> WrongJson:
    return WrongJson(f"it is nested deeper than {MAX_DEPTH} levels", "keep what is nested so deep as text: json.dumps")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        twice = json.dumps(name, ensure_ascii=False)
        raise WrongJson(f"the key {twice} stands twice", f"keep one {twice}")
    return found


def _no_constant(word: str) -> Any:
    raise WrongJson(f"{word} is not JSON", "write null, or leave the field out")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise WrongJson(f"{text} is too large for a number", "write it as text, in quotes")
    return number
