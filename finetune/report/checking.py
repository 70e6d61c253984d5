"""Refuses a file of the run that is damaged, or was edited into what no command of ours writes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from finetune.errors import ArtifactError

MOST = 1e30
"""A figure above it is none: drawing and dividing stay far from what a float holds."""

T = TypeVar("T")


def read(file: Path, form: TypeAdapter[T], fix: str, what: str = "") -> T:
    """Reads a file of JSON whose every value is what it should be.

    Args:
        file: of the run.
        form: what it must be.
        fix: the command that makes it.
        what: went wrong then; by default that the file cannot be read.

    Raises:
        ArtifactError: it is not that, or holds a number that is none; it names the first such place.
    """
    data, what = file.read_bytes(), what or f"{file.name} cannot be read"
    try:
        told = form.validate_json(data, strict=True)
        value = json.loads(data)
    except ValidationError as error:
        raise invalid(str(file), what, error, fix) from None
    except ValueError as error:  # a whole number of thousands of digits
        raise ArtifactError(what, where=str(file), why=str(error), fix=fix) from None
    for place in _no_figures(value):
        raise refused(file, place, f"its number is not finite, or beyond {MOST:g}", fix, what)
    return told


def refused(file: Path, place: str, why: str, fix: str, what: str = "") -> ArtifactError:
    """Tells of a file that a place in it is wrong.

    Args:
        file: of the run.
        place: dotted, as the file nests.
        why: it is wrong.
        fix: the command that makes the file.
        what: went wrong then; by default that the file cannot be read.
    """
    return ArtifactError(what or f"{file.name} cannot be read", where=f"{file}  {place}", why=why, fix=fix)


def invalid(where: str, what: str, error: ValidationError, fix: str) -> ArtifactError:
    """Tells the first value that is not what it should be.

    Args:
        where: the file, and its line if lines are read.
        what: went wrong then.
        error: that lists the values.
        fix: the command that makes the file.
    """
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return ArtifactError(what, where=f"{where}  {place}" if place else where, why=first["msg"], fix=fix)


def is_figure(value: Any) -> bool:
    """Tells a number that can be drawn from what is none, is not finite or is beyond all sense."""
    return isinstance(value, int | float) and abs(value) <= MOST and not math.isnan(value)


def _no_figures(value: Any, place: str = "") -> Iterator[str]:
    """Yields the places of numbers that are none."""
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _no_figures(each, f"{place}.{key}" if place else str(key))
    elif isinstance(value, int | float) and not is_figure(value):
        yield place
