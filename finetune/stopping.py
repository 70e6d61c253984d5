"""Ctrl-C and SIGTERM, heard from the first moment on, obeyed at the next safe place."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from finetune.errors import Interrupted

HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

TOGETHER_SECONDS = 1.0
"""Signals that come so soon after the first are the same wish: a launcher and its launcher may both hand it on."""


STARTER = "FINETUNE_STARTER"
"""Names the process that started this one, to train together with others."""

_PR_SET_PDEATHSIG = 1
"""Source: prctl(2), Linux."""


def end_with_starter() -> None:
    """Lets this process hear SIGTERM when the one that started it dies, however it does: nobody trains on unseen."""
    starter = os.environ.get(STARTER, "")
    if starter and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if str(os.getppid()) != starter:  # it died before this was said
            os.kill(os.getpid(), signal.SIGTERM)


class Stop:
    """Whether somebody asked to stop. The one thing that a signal handler may write to."""

    def __init__(self) -> None:
        self.signal = ""
        """Name of the signal; empty while nobody asked."""
        self.idle = ""
        """How to go on, while nothing would be lost by ending here and now; empty while something would be."""

    def check(self, how_to_go_on: str) -> None:
        """Ends the work here if somebody asked.

        Raises:
            Interrupted: somebody did.
        """
        if self.signal:
            raise Interrupted(f"stopped by {self.signal}", fix=how_to_go_on)


@contextmanager
def heard() -> Iterator[Stop]:
    """Hears signals: the first asks for a stop after the current step, another one later ends the process at once.

    While nothing would be lost (imports, preparing, loading), the first ends it too.
    """
    stop = Stop()
    stop.idle = "nothing was begun; give the command again"

    first = 0.0

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal first
        again = bool(stop.signal)
        if again and not stop.idle and time.monotonic() < first + TOGETHER_SECONDS:
            return
        first, stop.signal = time.monotonic(), signal.Signals(number).name
        # os.write, because a signal may come while print holds its lock
        if stop.idle:
            os.write(2, f"\n{Interrupted(f'stopped by {stop.signal}', fix=stop.idle)}\n".encode())
        if again or stop.idle:
            os._exit(Interrupted.exit_code)
        os.write(2, b"\nstopping as soon as nothing is lost by it; again to stop at once\n")

    before = {number: signal.signal(number, hear) for number in HEARD}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
