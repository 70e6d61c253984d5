"""Real processes and real signals, without paying for the import of torch each time.

This process imports everything once; each run is a fork of it that goes through the command line as a user's would.
A fork tells in one shared byte what it is doing, so that one knows afterwards where a signal struck.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))

from finetune.cli import main  # noqa: E402
from finetune.cli.quiet import quiet_libraries  # noqa: E402

quiet_libraries()

import bitsandbytes  # noqa: E402, F401
import matplotlib.figure  # noqa: E402, F401
import torch  # noqa: E402

import finetune.train  # noqa: E402
from finetune import stopping  # noqa: E402
from finetune.run import checkpoint  # noqa: E402
from finetune.train import verb  # noqa: E402
from finetune.train.watching import Watcher  # noqa: E402

PHASES = ("start", "data", "load", "step", "eval", "save", "final", "exit")
"""Before signals are heard, imports among them; recipe, rows, plan and run folder; the base; and so on."""

_now = mmap.mmap(-1, 1)


@dataclass(frozen=True)
class End:
    """How a process ended."""

    code: int
    """Its exit code; negative if a signal killed it."""
    phase: str
    """What it was doing when the signal was sent, or at its end."""
    struck: bool
    """Whether the signal was sent before it ended by itself."""
    seconds: float
    """From the signal, or from its start, to its end."""
    output: str
    """What it wrote on stdout and stderr."""


def run(
    words: Sequence[str],
    log: Path,
    number: signal.Signals | None = None,
    instant: float = 0.0,
    phase: str | None = None,
) -> End:
    """Runs the command and sends it a signal, `instant` seconds after its start or after a phase began."""
    torch.set_num_threads(1)
    _now[0] = 0
    pid = _fork(words, log)
    return _watch(pid, log, number, instant, phase)


def run_command(words: Sequence[str], log: Path, number: signal.Signals | None = None, instant: float = 0.0) -> End:
    """The same through `python -m finetune`, its imports included; its phase is read from what it had printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("w") as file:
        command = [sys.executable, "-m", "finetune", *words]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    _now[0] = 0
    end = _watch(process.pid, log, number, instant, None)
    process.returncode = end.code  # it was waited for already
    phases = {"proven:": "exit", "loaded ": "step", "\nrun ": "load"}
    return replace(end, phase=next((phases[word] for word in phases if word in f"\n{end.output}"), "start"))


def _watch(pid: int, log: Path, number: signal.Signals | None, instant: float, phase: str | None) -> End:
    began = time.monotonic()
    ended = os.pidfd_open(pid)
    struck = False
    while phase is not None and PHASES[_now[0]] != phase and not select.select([ended], [], [], 0)[0]:
        time.sleep(0.0002)
    if number is not None and not select.select([ended], [], [], instant)[0]:
        struck, began = True, time.monotonic()
        doing = PHASES[_now[0]]
        os.kill(pid, number)
    _, status = os.waitpid(pid, 0)
    os.close(ended)
    seconds = time.monotonic() - began
    code = os.waitstatus_to_exitcode(status)
    return End(code, doing if struck else PHASES[_now[0]], struck, seconds, log.read_text(errors="replace"))


def _fork(words: Sequence[str], log: Path) -> int:
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.argv = ["finetune", *words]
        main()
        code = 0
    except SystemExit as told:
        code = told.code if isinstance(told.code, int) else int(told.code is not None)
    except BaseException:  # noqa: BLE001  (a bug of the child must not run the parent's code)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _tell(owner: Any, name: str, phase: str, after: str | None = None) -> None:
    """Makes a function say when it is at work; what it does stays the same."""
    function = getattr(owner, name)

    def told(*given: Any, **named: Any) -> Any:
        before = _now[0]
        _now[0] = PHASES.index(phase)
        result = function(*given, **named)
        _now[0] = before if after is None else PHASES.index(after)
        return result

    setattr(owner, name, told)


_tell(stopping, "heard", "start", after="data")
_tell(finetune.train, "begin", "data", after="load")
_tell(verb, "assemble", "load", after="step")
_tell(Watcher, "evaluate", "eval")
_tell(checkpoint, "save", "save")
_tell(verb, "_prove", "final", after="exit")
