"""Asks another program something, and never waits for it longer than was said.

`subprocess.run(timeout=…)` is not enough: after the time it waits for the killed program to go, which one that is
stuck in a driver never does, and for grandchildren that hold its pipe.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

PATIENCE_SECONDS = 0.5
"""For a killed program to go; then it is left to the system."""


@dataclass(frozen=True)
class Answer:
    """What a program said."""

    out: str
    err: str
    trouble: str
    """Why this is no answer, in a few words; empty when the program ended by itself with exit code 0."""
    timed_out: bool = False


def ask(command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None) -> Answer:
    """Runs a program to its end, or ends it with all its children.

    Args:
        command: the program and its words; looked up on PATH, run without a shell.
        seconds: how long it may take.
        environment: its variables, in place of ours.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
                start_new_session=True,  # so that its children can be ended with it
            )
        except (OSError, ValueError) as error:  # not there, not executable, not a program
            return Answer("", "", f"{command[0]} cannot be run: {error}")
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            return Answer(_text(out), _text(err), f"{command[0]} gave no answer within {seconds:g} s", True)
        except BaseException:  # Ctrl-C: the child has a session of its own and did not hear it
            _end(process)
            raise
        return Answer(_text(out), _text(err), _told(command[0], code, _text(err) or _text(out)))


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(PATIENCE_SECONDS)


def _told(program: str, code: int, said: str) -> str:
    if code == 0:
        return ""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"{program} {ended}" + (f": {lines[-1]}" if lines else "")


def _text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
