"""Starts one process for each GPU of this machine and watches over them, by torchrun's own engine in this process.

The `torchrun` command would end with 1 whatever its processes ended with, and tell a long story of its own; here the
exit code is that of the process which failed first, and what is printed is what that process says.

Source: torch 2.13, torch/distributed/run.py (what `torchrun` does with its words) and distributed/launcher/api.py.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from tempfile import TemporaryDirectory

from torch.distributed.elastic.agent.server import api
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, parse_args

from finetune.errors import Interrupted, OutsideError
from finetune.stopping import STARTER

HERE = ("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--local-addr=localhost")
"""All processes are on this machine, and meet at a port that is free."""


def start(processes: int, flags: Sequence[str], words: Sequence[str], resume: Callable[[], str]) -> int:
    """Runs `finetune` with these words in several processes, to their end.

    Args:
        processes: to start.
        flags: of torchrun, besides where the processes meet.
        words: what each is told.
        resume: gives the command that goes on.

    Returns:
        The exit code: 0, that of the process that failed first, or 75 after a signal that all of them heard.

    Raises:
        OutsideError: a process was killed from outside.
    """
    for logger in (logging.getLogger("torch.distributed"), api.logger):
        logger.setLevel(logging.CRITICAL)  # each process tells its own error
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    os.environ[STARTER] = str(os.getpid())
    with TemporaryDirectory() as logs:  # torchrun makes one of its own otherwise, and leaves it behind
        told = [*HERE, f"--log-dir={logs}", *flags, "-m", "finetune", *words]
        config, command, arguments = config_from_args(parse_args(told))
        try:
            elastic_launch(config, command)(*arguments)
        except SignalException:
            return Interrupted.exit_code
        except ChildFailedError as error:
            return _exit_code({place: failure.exitcode for place, failure in error.failures.items()}, resume)
    return 0


def _exit_code(ended: Mapping[int, int], resume: Callable[[], str]) -> int:
    """Chooses among those of the processes that failed: the others only lost the one that did.

    Raises:
        OutsideError: one was killed.
    """

    def how_late(place: int) -> int:
        """Puts first who was killed, then who failed by itself, who lost another, and whom torchrun asked to end."""
        code = ended[place]
        return 3 if code == -signal.SIGTERM else 0 if code < 0 else 2 if code == OutsideError.exit_code else 1

    first = min(sorted(ended), key=how_late)
    if ended[first] >= 0:
        return ended[first]
    name = signal.Signals(-ended[first]).name
    why = "SIGKILL is what the system sends when the host's memory is full" if name == "SIGKILL" else ""
    raise OutsideError(f"process {first} was ended by {name}", why=why, fix=resume())
