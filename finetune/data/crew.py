"""Renders on several cores: processes of our own that take records and give back what became of them.

They are told everything through a pipe and end with it, however the one who began them ends. multiprocessing would
import the user's own script again in each of them.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

AHEAD = 3
"""Groups of records for each process that wait to be taken: none idles, and memory stays bounded."""

BEGIN = "from finetune.data.crew import work; work()"


def on_all(cores: int, work_on: Any, groups: Iterable[Any]) -> Iterator[Any]:
    """Lets processes work on groups, and yields what came of each, in their order.

    Args:
        cores: processes.
        work_on: a function of a group that can be pickled, such as a partial of one of a module.
        groups: what to work on.

    Raises:
        RuntimeError: a process ended by itself, which is a bug, or was killed; its own words stand on stderr.
    """
    with ExitStack() as crew:
        idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        for _ in range(cores):
            idle.put(_begin(crew, work_on))
        threads = crew.enter_context(ThreadPoolExecutor(cores))
        waiting: deque[Future[Any]] = deque()
        try:
            for group in groups:
                waiting.append(threads.submit(_ask, idle, group))
                if len(waiting) > AHEAD * cores:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _begin(crew: ExitStack, work_on: Any) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(part or os.getcwd() for part in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"},  # a core each
    )
    crew.callback(_end, process)
    _tell(process, work_on)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # it holds nothing that could be lost
    process.communicate()


def _tell(process: subprocess.Popen[bytes], what: Any) -> None:
    assert process.stdin is not None
    try:
        pickle.dump(what, process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
        process.stdin.flush()
    except BrokenPipeError:
        raise RuntimeError(f"a process that renders rows ended by itself: {process.wait()}") from None


def _ask(idle: queue.SimpleQueue[subprocess.Popen[bytes]], group: Any) -> Any:
    process = idle.get()
    try:
        _tell(process, group)
        assert process.stdout is not None
        return pickle.load(process.stdout)
    except EOFError:
        raise RuntimeError(f"a process that renders rows ended by itself: {process.wait()}") from None
    finally:
        idle.put(process)


def work() -> None:
    """Works on what comes through standard input until it ends; run in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who began us is asked, and ends us
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever is printed goes to stderr
    work_on = pickle.load(sys.stdin.buffer)
    while True:
        try:
            group = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(work_on(group), answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()
