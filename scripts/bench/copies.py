"""How fast the inputs of layers travel to the host and back, and how many kernels a step launches, by the profiler."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from finetune.levers import Levers

TO_HOST, TO_DEVICE = "Memcpy DtoH", "Memcpy HtoD"
"""How the profiler's names of copies begin. Those within the device are `Memcpy DtoD`."""

Events = Iterable[tuple[str, float]]
"""(name, microseconds) of everything that ran on the device."""


def bytes_a_step(levers: Levers, *, num_layers: int, hidden: int, e: int, tokens: int) -> dict[str, int]:
    """Counts the bytes that levers send over the slot in one step, by direction."""
    row = tokens * hidden * e
    inputs = num_layers * (2 if levers.recompute == "halves" else 1) * row if levers.checkpoints == "host" else 0
    return {"to_host": inputs, "to_device": inputs + (row if levers.embeddings == "host" else 0)}


def profiled(run: Callable[[], Any]) -> list[tuple[str, float]]:
    """Lists what a step does on the device, apart from steps that are timed: watching slows it down."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as watched:
        run()
        torch.cuda.synchronize()
    events = watched.events() or []
    return [(e.name, e.time_range.elapsed_us()) for e in events if e.device_type == DeviceType.CUDA]


def speeds(events: Events, sent: dict[str, int]) -> dict[str, float | int | None]:
    """Tells what the copies of a step achieved, as it stands in results.json.

    Args:
        events: of the step.
        sent: bytes by direction, by arithmetic. A speed is None where nothing was sent, or nothing was seen.
    """
    kernels, busy = 0, {TO_HOST: 0.0, TO_DEVICE: 0.0}
    for name, microseconds in events:
        copied = next((kind for kind in busy if name.startswith(kind)), None)
        if copied:
            busy[copied] += microseconds
        elif not name.startswith(("Memcpy", "Memset")):
            kernels += 1

    def gb_per_second(num_bytes: int, microseconds: float) -> float | None:
        return num_bytes / microseconds / 1e3 if num_bytes and microseconds else None

    return {
        "num_launches": kernels or None,
        "to_host_gb_per_second": gb_per_second(sent["to_host"], busy[TO_HOST]),
        "to_device_gb_per_second": gb_per_second(sent["to_device"], busy[TO_DEVICE]),
    }
