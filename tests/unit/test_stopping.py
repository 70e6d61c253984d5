"""Signals while something would be lost: the first is a wish, its echo is none, a later one is an order."""

from __future__ import annotations

import signal
import subprocess
import sys

SCRIPT = """
import os, signal, time
from finetune.stopping import heard

with heard() as stop:
    stop.idle = ""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM):
        os.kill(os.getpid(), number)
    print(stop.signal, flush=True)
    time.sleep(1.05)
    os.kill(os.getpid(), signal.SIGINT)
    print("not reached", flush=True)
"""


def test_signals_within_a_second_are_one_and_a_later_one_ends_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (75, f"{signal.SIGTERM.name}\n")
    assert done.stderr.count("again to stop at once") == 1
