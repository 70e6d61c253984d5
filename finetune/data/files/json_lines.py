"""JSON Lines: one JSON object a line. Reading and parsing are two steps, so that parsing can be shared out."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.files.opening import numbered_lines
from finetune.data.files.records import EXAMPLE, Format, Raw
from finetune.data.strict_json import WrongJson, kind, read_json
from finetune.errors import Problem
from finetune.recipe.encodings import guess_encoding


def json_lines(file: Path, shown: str, _: Format) -> Iterator[Raw]:
    """Yields each line that is not blank, unparsed."""
    for number, line in numbered_lines(file, shown):
        if line.strip():
            yield Raw(number, line)


def parse(raw: Raw, shown: str) -> dict[str, Any] | Problem:
    """Parses a record, or says what is wrong with it."""
    if isinstance(raw.value, dict):
        return raw.value
    place = f"{shown}:{raw.line}"
    try:
        value = read_json(raw.value.decode("utf-8"))
    except UnicodeDecodeError as error:
        why = f"byte {error.start} of the line is 0x{raw.value[error.start]:02x}"
        name, fixed = shlex.quote(shown), shlex.quote(f"{Path(shown).with_suffix('')}.utf8.jsonl")
        fix = f"iconv -f {guess_encoding(raw.value)} -t utf-8 {name} > {fixed}"
        return Problem("the line is not UTF-8", place, why, fix)
    except WrongJson as error:
        return Problem("the line is not JSON", place, error.why, error.fix)
    if not isinstance(value, dict):
        return Problem("a row is a JSON object", place, f"it is {kind(value)}", EXAMPLE)
    return value
