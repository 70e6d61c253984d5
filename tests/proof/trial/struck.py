"""Work in a process of its own that is killed: after a time, or just before it gives a file or a folder its name."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_SECONDS = 120.0
"""After which a process that should have ended is killed, and the work counts as failed."""


@dataclass(frozen=True)
class End:
    """How the process ended."""

    code: int
    """Its exit code; negative if a signal killed it."""
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether it was struck before it ended by itself."""
        return self.code == -signal.SIGKILL


def work(
    task: Callable[[], object], log: Path, *, after_seconds: float | None = None, before_name: int | None = None
) -> End:
    """Does the task in a fork of this process, and strikes it.

    Args:
        task: what to do.
        log: takes what it prints.
        after_seconds: kill it then.
        before_name: let it kill itself before it renames or removes anything for the n-th time, counted from 0.
    """
    began = time.monotonic()
    pid = os.fork()
    if not pid:
        _be_the_child(task, log, before_name)
    ends = began + (MOST_SECONDS if after_seconds is None else after_seconds)
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return End(os.waitstatus_to_exitcode(status), time.monotonic() - began)
        if time.monotonic() >= ends:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            code = os.waitstatus_to_exitcode(status)
            return End(code if after_seconds is not None else 1, time.monotonic() - began)
        time.sleep(0.001)


def _be_the_child(task: Callable[[], object], log: Path, before_name: int | None) -> None:
    """Never returns."""
    code = 1
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        if before_name is not None:
            _count_down(before_name)
        task()
        code = 0
    except BaseException:  # noqa: BLE001  (a bug of the child must not run the parent's code)
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _count_down(left: int) -> None:
    """Makes every call that names or removes something count, and the last one kill."""
    for name in ("replace", "rename", "unlink", "rmdir"):
        function = getattr(os, name)

        def counted(*given: Any, function: Callable[..., object] = function, **named: Any) -> object:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return function(*given, **named)

        setattr(os, name, counted)
