"""Fourteen ways of damaging a checkpoint. From most of them the stock trainer goes on without a word."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

WEIGHTS, OPTIMIZER, SCHEDULER = "adapter_model.safetensors", "optimizer.pt", "scheduler.pt"
RANDOM, STATE, PROOF = "rng_state.pth", "trainer_state.json", "checkpoint.json"


def _flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _take_the_one_before(file: Path) -> None:
    step = int(file.parent.name.partition("-")[2])
    earlier = [path for path in file.parents[1].glob("checkpoint-*") if int(path.name.partition("-")[2]) < step]
    file.write_bytes((earlier[-1] / file.name).read_bytes())


def _remove_both(folder: Path) -> None:
    (folder / OPTIMIZER).unlink()
    (folder / SCHEDULER).unlink()


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "one bit flipped in the weights": (WEIGHTS, lambda folder: _flip_a_bit(folder / WEIGHTS)),
    "one bit flipped in the optimizer": (OPTIMIZER, lambda folder: _flip_a_bit(folder / OPTIMIZER)),
    "optimizer missing": (OPTIMIZER, lambda folder: (folder / OPTIMIZER).unlink()),
    "scheduler missing": (SCHEDULER, lambda folder: (folder / SCHEDULER).unlink()),
    "optimizer and scheduler missing": (OPTIMIZER, _remove_both),
    "random state missing": (RANDOM, lambda folder: (folder / RANDOM).unlink()),
    "trainer state of another step": (STATE, lambda folder: _take_the_one_before(folder / STATE)),
    "optimizer of another step": (OPTIMIZER, lambda folder: _take_the_one_before(folder / OPTIMIZER)),
    "weights truncated": (WEIGHTS, lambda folder: _truncate(folder / WEIGHTS)),
    "weights zeroed": (WEIGHTS, lambda folder: (folder / WEIGHTS).write_bytes(bytes(100_000))),
    "optimizer truncated": (OPTIMIZER, lambda folder: _truncate(folder / OPTIMIZER)),
    "trainer state truncated": (STATE, lambda folder: _truncate(folder / STATE)),
    "trainer state empty": (STATE, lambda folder: (folder / STATE).write_bytes(b"")),
    "proof missing": (PROOF, lambda folder: (folder / PROOF).unlink()),
}
"""Name -> (the file that the refusal must name, what is done to the folder)."""
