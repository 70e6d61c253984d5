"""Runs a function in several processes that form a group, and brings back what each of them gave."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

PATIENCE_SECONDS = 300
"""After which processes that have not ended are killed."""


def in_processes(size: int, function: Callable[..., Any], *given: Any) -> list[Any]:
    """Gives what the function returned in each process, in order; it is called as function(place, *given).

    Args:
        size: of the group.
        function: at the top of a module, so that a new process finds it.
        given: whatever torch can save.

    Raises:
        TimeoutError: they did not end.
    """
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.spawn(_enter, (size, folder, function, given), nprocs=size, join=False)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not context.join(timeout=max(0.0, deadline - time.monotonic())):
            if time.monotonic() > deadline:
                for process in context.processes:
                    process.kill()
                raise TimeoutError(f"{size} processes did not end in {PATIENCE_SECONDS} s")
        return [torch.load(Path(folder) / f"{place}.pt", weights_only=False) for place in range(size)]


def _enter(place: int, size: int, folder: str, function: Callable[..., Any], given: tuple[Any, ...]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = distributed.FileStore(f"{folder}/store", size)
    distributed.init_process_group("gloo", store=store, rank=place, world_size=size)
    try:
        torch.save(function(place, *given), Path(folder) / f"{place}.pt")
    finally:
        distributed.destroy_process_group()
