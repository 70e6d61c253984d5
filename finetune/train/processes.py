"""The processes that train together: who starts them is an existing engine's work, and they only read what it set.

torchrun, the deepspeed launcher, srun and Kubernetes all tell a process its place in the same variables.
Source: https://docs.pytorch.org/docs/stable/elastic/run.html, section Environment Variables.
"""

from __future__ import annotations

import atexit
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch.distributed import distributed_c10d

from finetune.errors import FinetuneError, OutsideError
from finetune.experts import Exchange
from finetune.hardware import started_processes
from finetune.run import Run, locked

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others before the first step; one may be downloading what another has on disk."""

STEP_PATIENCE = "FINETUNE_STEP_PATIENCE"
"""The variable that says for how many seconds it waits in a step, where all do the same work; 300 without it."""


@dataclass(frozen=True)
class Processes:
    """All that train together, seen from one of them."""

    size: int = 1
    place: int = 0
    """Of this one, from 0; the first writes what is written."""
    exchange: Exchange | None = None
    """With those that hold the other routed experts."""

    @property
    def first(self) -> bool:
        return self.place == 0

    def gather(self, told: Any) -> list[Any]:
        """Gives what every process tells, in order; every process calls it."""
        if self.size == 1:
            return [told]
        everybody: list[Any] = [None] * self.size
        distributed.all_gather_object(everybody, told)
        return everybody

    def add_up(self, counts: torch.Tensor) -> torch.Tensor:
        """Adds numbers up over all processes, in place, where the model is; every process calls it."""
        if self.size > 1:
            distributed.all_reduce(counts)
        return counts

    def begin_steps(self) -> None:
        """Lets a process that hears nothing of the others give up sooner than before the first step."""
        if self.size > 1:
            seconds = _patience()
            for group in list(distributed_c10d._world.pg_map):  # torch 2.13 has no public way, and DeepSpeed's are many
                distributed_c10d._set_pg_timeout(seconds, group)

    @contextmanager
    def losses_told(self, resume: str) -> Iterator[None]:
        """Tells of a process that the others lost what it is for the user: a run to go on with.

        Raises:
            OutsideError: one died, or cannot be reached.
        """
        try:
            yield
        except RuntimeError as error:  # NCCL's own kind is one of these; gloo has none
            if self.size == 1 or not (isinstance(error, distributed.DistBackendError) or "gloo" in str(error)):
                raise
            raise OutsideError(
                "another process is gone, or cannot be reached",
                where=f"process {self.place} of {self.size} on {socket.gethostname()}",
                why=str(error).splitlines()[0],
                fix=f"look at the first error of the others; then {resume}",
            ) from error

    def from_first(self, told: Any) -> Any:
        """Gives what the first process tells; every process calls it."""
        return self.gather(told if self.first else None)[0]


def _patience() -> timedelta:
    """Reads how long a step may hear nothing of the others.

    Raises:
        OutsideError: the environment says nonsense.
    """
    told = os.environ.get(STEP_PATIENCE, "300")
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", told) or not float(told):
        why = "it is a number of seconds, such as 300"
        raise OutsideError(f"{told!a:.40} is no patience", where=STEP_PATIENCE, why=why, fix=f"unset {STEP_PATIENCE}")
    return timedelta(seconds=float(told))


ALONE = Processes()


def join(device: str, expert: int) -> Processes:
    """Meets the other processes.

    Args:
        device: cuda or cpu.
        expert: processes over which the routed experts of a layer are spread, neighbours; divides all of them.
    """
    if started_processes() == 1:
        return ALONE
    _patience()  # nonsense is told before anybody waits
    import deepspeed

    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    else:  # else DeepSpeed compiles its own all-reduce over shared memory, and waits for ever on a lock left behind
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not distributed.is_initialized():
        deepspeed.init_distributed("nccl" if device == "cuda" else "gloo", timeout=PATIENCE, verbose=False)
        atexit.register(distributed.destroy_process_group)
    size, place = distributed.get_world_size(), distributed.get_rank()
    exchange = None
    if expert > 1:
        groups = [distributed.new_group(list(range(at, at + expert))) for at in range(0, size, expert)]
        exchange = Exchange(groups[place // expert])
    return Processes(size, place, exchange)


@contextmanager
def locked_together(run: Run, processes: Processes) -> Iterator[None]:
    """Lets the first process hold the run's lock for all.

    Raises:
        ArtifactError, DoesNotFit, RunLocked: as `locked`, in every process.
    """
    refused: FinetuneError | None = None
    with ExitStack() as held:
        if processes.first:
            try:
                held.enter_context(locked(run))
            except FinetuneError as error:
                refused = error
        refused = processes.from_first(refused)
        if refused is not None:
            raise refused
        yield


def agree(processes: Processes, told: Mapping[str, Any]) -> None:
    """Makes sure that all processes mean the same training, before any of them loads a base.

    Raises:
        OutsideError: naming what differs, and in which process.
    """
    first, *others = processes.gather((socket.gethostname(), dict(told)))
    for place, (host, theirs) in enumerate(others, start=1):
        different = [key for key, value in first[1].items() if theirs.get(key) != value]
        if different:
            key = different[0]
            raise OutsideError(
                f"process {place} would train something else: its {', '.join(different)} differ",
                where=f"process {place} on {host}",
                why=f"there it is {theirs.get(key)!s:.60}, in process 0 on {first[0]} it is {first[1][key]!s:.60}",
                fix="give all hosts the same packages, recipe, data and base",
            )
