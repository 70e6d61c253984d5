"""`finetune merge`."""

from __future__ import annotations

import json
import sys
import time
from enum import StrEnum
from pathlib import Path

import typer

from finetune import stopping
from finetune.cli.quiet import quiet_libraries

LIVE_EVERY_SECONDS, LOG_EVERY_SECONDS = 0.2, 10.0


class Onto(StrEnum):
    """What an adapter can be merged onto."""

    bf16 = "bf16"
    dequantised = "dequantised"


def merge(
    run: Path = typer.Argument(help="The run folder."),
    onto: Onto = typer.Option(
        Onto.bf16, "--onto", help="The published weights, or those that 4 bits restored in training."
    ),
    out: Path | None = typer.Option(None, "--out", metavar="FOLDER", help="The folder to make. Default: RUN/merged."),
    quiet: bool = typer.Option(False, "--quiet", help="No progress."),
    as_json: bool = typer.Option(False, "--json", help="Print what was proven as JSON instead of the folder."),
) -> None:
    """Merge a run's adapter into its base, shard by shard, and prove it. The last line on stdout is the folder."""
    from finetune.run import open_run

    with stopping.heard() as stop:
        opened = open_run(run)
        quiet_libraries()
        from finetune.merge import merge as merge_run
        from finetune.merge.order import again

        folder = out or opened.merged
        stop.idle = again(opened, onto.value, folder)  # at no instant is anything lost by ending
        bar = Bar(quiet)
        entry = merge_run(opened, onto.value, out, bar.say, bar.show)
    holding = sum(claim["holds"] for claim in entry["claims"])
    bar.say(f"proven: {holding} of {len(entry['claims'])} claims hold, {entry['seconds']:,} s")
    print(json.dumps({"folder": str(folder), **entry}) if as_json else folder)


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

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[2K{text}" if self.live else text)
        sys.stderr.flush()
