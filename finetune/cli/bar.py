"""How far bytes have come, told on stderr."""

from __future__ import annotations

import sys
import time

LIVE_EVERY_SECONDS, LOG_EVERY_SECONDS = 0.2, 10.0


class Bar:
    """One live line on a terminal, a line now and then in a log file; on stderr."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.live = quiet, sys.stderr.isatty()
        self._printed = self._began = time.monotonic()
        self._what = ""

    def say(self, line: str) -> None:
        """Prints a line of its own."""
        if not self.quiet:
            self._write(f"{line}\n")

    def show(self, what: str, done: int, whole: int) -> None:
        """Shows how far the bytes have come."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._began = what, now
        if not self.quiet and now - self._printed > (LIVE_EVERY_SECONDS if self.live else LOG_EVERY_SECONDS):
            self._printed, speed = now, done / max(now - self._began, 1e-9)
            line = f"{what} {done / whole:4.0%} of {whole / 2**30:.1f} GiB  {speed / 1e6:,.0f} MB/s"
            left = f"  {(whole - done) / speed:,.0f} s left" if speed else ""
            self._write(line + left if self.live else f"{line}{left}\n")

    def count(self, what: str, done: int, whole: int, tokens: int) -> None:
        """Shows how many items are done, and how fast their tokens come."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._began = what, now
        last = done == whole
        if not self.quiet and (last or now - self._printed > (LIVE_EVERY_SECONDS if self.live else LOG_EVERY_SECONDS)):
            self._printed, seconds = now, max(now - self._began, 1e-9)
            speed = f"  {tokens / seconds:,.0f} tokens/s" if seconds > 1 else ""
            line = f"{what} {done} of {whole}{speed}"
            self._write(f"{line}\n" if last or not self.live else line)

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[2K{text}" if self.live else text)
        sys.stderr.flush()
