"""What training measured, one line of JSON for each logged step. A kill tears at most the last line.

A NaN or an infinity, which JSON lacks, stands in the file as the string "nan", "inf" or "-inf": every reader of
JSON can read the line, and the figure that matters most in a failed run is not lost. `read` gives back a float.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shlex
from pathlib import Path
from typing import Any

from finetune import atomic
from finetune.errors import ArtifactError
from finetune.run.folder import resume

NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def append(path: Path, record: dict[str, Any]) -> None:
    """Adds one record in one write, flushed: a loss once shown survives a power cut. The record has a `step`.

    Raises:
        ArtifactError: the run's folder was removed.
        DoesNotFit: the disk or the quota is full; no part of the line is left.
    """
    assert type(record["step"]) is int, "a record tells its step"
    line = (json.dumps(_as_json(record), allow_nan=False) + "\n").encode()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except FileNotFoundError:
        why, fix = "somebody removed or moved it while the run was trained", "begin the run again"
        raise ArtifactError("the run's folder is gone", where=str(path.parent), why=why, fix=fix) from None
    try:
        with atomic.full_disk_told(path, len(line), resume(path.parent)):
            before_bytes = os.fstat(descriptor).st_size
            if os.write(descriptor, line) < len(line):
                os.ftruncate(descriptor, before_bytes)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> list[dict[str, Any]]:
    """All whole records, in the order they were written; none before training began.

    Raises:
        ArtifactError: a line other than a torn last one is damaged; it names the line.
    """
    return [record for _, record in _lines(path)]


def rewind(path: Path, step: int) -> None:
    """Forgets, in one go, what was measured after a step, since it is about to be measured again.

    Raises:
        ArtifactError: a line other than a torn last one is damaged.
        DoesNotFit: the disk or the quota is full; the file is left as it is.
    """
    if path.exists():
        atomic.write_text(path, "".join(line for line, record in _lines(path) if record["step"] <= step))


def _lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Each whole line with its record. What follows the last newline is torn, and not a line."""
    if not path.exists():
        return []
    whole = path.read_bytes().split(b"\n")[:-1]
    return [_line(path, number, raw) for number, raw in enumerate(whole, start=1)]


def _line(path: Path, number: int, raw: bytes) -> tuple[str, dict[str, Any]]:
    try:
        line = raw.decode()
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, number, str(error)) from error
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        raise _damaged(path, number, "not a record with a step")
    told = {key: _as_float(value) for key, value in record.items()}
    if not all(isinstance(told.get(key, 0.0), int | float) for key in ("loss", "held_out_loss")):
        raise _damaged(path, number, "its loss is not a number")
    return line + "\n", told


def _damaged(path: Path, number: int, why: str) -> ArtifactError:
    return ArtifactError(
        "a line of the run's metrics is damaged",
        where=f"{path}:{number}",
        why=why,
        fix=f"sed -i {number}d {shlex.quote(str(path))}",
    )


def _as_json(value: Any) -> Any:
    """The value with each figure that is not finite as a string, at any depth."""
    if isinstance(value, dict):
        return {key: _as_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _as_float(value: Any) -> Any:
    """The way back from `_as_json`."""
    if isinstance(value, dict):
        return {key: _as_float(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_as_float(part) for part in value]
    return NOT_FINITE.get(value, value) if isinstance(value, str) else value
