"""Signals while something would be lost: the first is a wish, its echo is none, a later one is an order."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

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


CHILD = (
    "import time; from finetune.host import end_with_parent; end_with_parent(); print(0, flush=True); time.sleep(60)"
)
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
print(child.pid, flush=True)
child.wait()
"""


def test_a_helper_ends_with_the_process_that_started_it_even_if_that_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.stdout.readline()  # it watches
    assert _runs(child)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _runs(child)
    parent.stdout.close()


def _runs(pid: int) -> bool:
    """Tells whether a process does more than wait for somebody to ask how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
