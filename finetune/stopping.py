"""Ctrl-C and SIGTERM, heard from the first moment on, obeyed at the next safe place."""

from __future__ import annotations

import ctypes
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from finetune.errors import Interrupted

HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

TOGETHER_SECONDS = 1.0
"""Signals that come so soon after the first are the same wish: a launcher and its launcher may both hand it on."""

LATENCY_SECONDS = 0.2
"""Between a signal and its handler where the main thread is in Python."""


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
    """Whether somebody asked to stop. The one thing that a signal may write to."""

    def __init__(self) -> None:
        self.signal = ""
        """Name of the signal; empty while nobody asked."""
        self.idle = ""
        """How to go on, while nothing would be lost by ending here and now; empty while something would be."""
        self._first = 0.0
        self.silent = os.environ.get("RANK", "0") != "0"
        """Whether another process that hears the same says it."""

    def obey(self, number: int) -> None:
        """Does what a signal says: notes a wish to stop, or ends the process at once."""
        again = bool(self.signal)
        if again and not self.idle and time.monotonic() < self._first + TOGETHER_SECONDS:
            return
        self._first, self.signal = time.monotonic(), signal.Signals(number).name
        # os.write, because a signal may come while print holds its lock
        if self.idle and not self.silent:
            os.write(2, f"\n{Interrupted(f'stopped by {self.signal}', fix=self.idle)}\n".encode())
        if again or self.idle:
            os._exit(Interrupted.exit_code)
        if not self.silent:
            os.write(2, b"\nstopping as soon as nothing is lost by it; again to stop at once\n")

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
    deaf = _Deaf(stop)
    before = {number: signal.signal(number, deaf.hear) for number in HEARD}
    try:
        with deaf.listening():
            yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Deaf:
    """Hears for a main thread that does not: Python calls a handler there, and it may be waiting inside a library.

    Such a wait is that for other processes to come, which torch does in C++ for half an hour. What the system tells
    goes into a pipe too, and another thread, which reads it, obeys what the main one has not heard a second later.
    """

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._heard_at = -math.inf
        """When the main thread last did."""
        self._obeyed_at = -math.inf
        """When this one last did in its place."""
        self._owed: set[int] = set()
        """Signals that were obeyed here, whose handler the main thread will call when it comes back."""

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Is called in the main thread."""
        if number in self._owed:
            self._owed.discard(number)
        else:
            self._heard_at = time.monotonic()
            self._stop.obey(number)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listens meanwhile."""
        source, sink = os.pipe()
        os.set_blocking(sink, False)
        before = signal.set_wakeup_fd(sink, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=_forget_wakeup)  # a child's signals are its own
        ear = threading.Thread(target=self._listen, args=(source,), daemon=True, name="signals")
        ear.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            os.close(sink)  # which ends the thread
            ear.join()
            os.close(source)

    def _listen(self, source: int) -> None:
        waiting: list[tuple[float, int]] = []
        while True:
            if select.select([source], [], [], LATENCY_SECONDS if waiting else None)[0]:
                if not (told := os.read(source, 16)):
                    return
                waiting += [(time.monotonic(), number) for number in told if number in HEARD]
            while waiting and waiting[0][0] + TOGETHER_SECONDS < time.monotonic():
                self._answer_for_main(*waiting.pop(0))

    def _answer_for_main(self, came: float, number: int) -> None:
        """Obeys a signal that came a second ago, if the main thread has not, and it is no echo of one."""
        if self._heard_at >= came - LATENCY_SECONDS:
            return
        self._owed.add(number)
        if self._obeyed_at < came:
            self._obeyed_at = time.monotonic()
            self._stop.obey(number)


def _forget_wakeup() -> None:
    with suppress(ValueError):  # of a child that another thread than the main one made
        signal.set_wakeup_fd(-1)
