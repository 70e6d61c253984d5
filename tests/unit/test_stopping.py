"""Signals while something would be lost: the first is a wish, its echo is none, a later one is an order."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

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


WAITING = """
import ctypes, sys
from finetune.stopping import heard

with heard() as stop:
    stop.idle = sys.argv[1]
    print("waits", flush=True)
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)  # for ever, without the interpreter, whatever signal comes
"""


def waiting(idle: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", WAITING, idle]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    return process


def test_a_process_that_waits_inside_a_library_hears_too() -> None:
    with waiting("give it again") as process:
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 75
    assert "stopped by SIGTERM" in said
    assert "give it again" in said


def test_a_process_that_waits_inside_a_library_ends_when_it_is_told_again() -> None:
    with waiting("") as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(2.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 75
    assert said.count("again to stop at once") == 1
