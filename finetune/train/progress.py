"""What a user sees while it trains: one live line on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console

LOG_EVERY_SECONDS = 10.0
LIVE_EVERY_SECONDS = 0.2


class Progress:
    """Prints to stderr; a quiet one prints nothing."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.steps = 0
        self.live = sys.stderr.isatty()
        self.console = Console(stderr=True, highlight=False)
        self._began: tuple[int, float] | None = None
        self._printed = time.monotonic()

    def say(self, line: str) -> None:
        """Prints a line of its own."""
        if not self.quiet:
            self._clear()
            self.console.print(line, markup=False, soft_wrap=True)

    def show(self, record: dict[str, Any]) -> None:
        """Shows a record of metrics.jsonl, or takes the number of steps to come."""
        self.steps = record.get("steps", self.steps)
        if self.quiet:
            return
        if "loaded_bytes" in record:
            self._loaded(record["loaded_bytes"], record["whole_bytes"])
        if "held_out_loss" in record:
            self.say(f"step {record['step']:>5}  held-out loss {record['held_out_loss']:.4f}")
        elif "loss" in record:
            self._step(record)

    def _loaded(self, done: int, whole: int) -> None:
        """Shows how much of the base was read, where that takes long enough to be looked at."""
        now = time.monotonic()
        if now - self._printed > (LIVE_EVERY_SECONDS if self.live else LOG_EVERY_SECONDS):
            self._printed = now
            line = f"loading {done / whole:4.0%} of {whole / 2**30:.1f} GiB"
            self._clear()
            sys.stderr.write(line if self.live else f"{line}\n")
            sys.stderr.flush()

    def _step(self, record: dict[str, Any]) -> None:
        now = time.monotonic()
        step = record["step"]
        self._began = self._began or (step, now)
        line = f"step {step:>5}/{self.steps}  loss {record['loss']:.4f}"
        if record.get("tokens_per_second"):
            line += f"  {record['tokens_per_second']:,.0f} tokens/s"
        done = step - self._began[0]
        if done > 0:
            left = (now - self._began[1]) / done * (self.steps - step)
            line += f"  {_clock(left)} left"
        if self.live:
            self._clear()
            sys.stderr.write(line)
            sys.stderr.flush()
        elif now - self._printed > LOG_EVERY_SECONDS or step in (1, self.steps):
            self._printed = now
            self.console.print(line, markup=False, soft_wrap=True)

    def _clear(self) -> None:
        if self.live:
            sys.stderr.write("\r\x1b[2K")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
