"""A training inside this process, stopped where one wants and looked into where one wants."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from finetune import train as training
from finetune.cli import main
from finetune.data import Dataset
from finetune.recipe import load
from finetune.run import Run
from finetune.stopping import Stop
from finetune.train import verb
from finetune.train.trainer import ProvingTrainer


@dataclass(frozen=True)
class Trained:
    """What came of it."""

    entry: dict[str, Any]
    said: list[str]
    trainer: ProvingTrainer | None
    """None if there was nothing left to train."""


def begin(recipe: Path, runs: Path, *overrides: str) -> tuple[Run, Dataset]:
    """Makes the run folder."""
    return training.begin(load(recipe, overrides), runs, Stop(), print)


def train(
    run: Run,
    dataset: Dataset | None = None,
    *,
    stop_after: int | None = None,
    touch: Callable[[ProvingTrainer], object] = lambda trainer: None,
) -> Trained:
    """Trains a run to its end.

    Args:
        run: the run.
        dataset: as `begin` gave it.
        stop_after: ask for a stop when this step's loss is known; the step after it is the last.
        touch: gets the trainer before the first step.
    """
    stop, said = Stop(), list[str]()

    def report(record: dict[str, Any]) -> None:
        if "loss" in record and record["step"] == stop_after:
            stop.signal = "SIGTERM"

    with touched(touch) as seen:
        entry = training.train(run, stop, said.append, report, dataset)
    return Trained(entry, said, seen[0] if seen else None)


@contextmanager
def touched(touch: Callable[[ProvingTrainer], object]) -> Iterator[list[ProvingTrainer]]:
    """Gives each trainer that is put together meanwhile to `touch`; gives them all back."""
    seen: list[ProvingTrainer] = []
    put_together = verb.assemble

    def assemble(*given: Any) -> Any:
        trainer, watcher = put_together(*given)
        seen.append(trainer)
        touch(trainer)
        return trainer, watcher

    with mock.patch.object(verb, "assemble", assemble):
        yield seen


def command(*words: str) -> int:
    """Runs the command line as a user would, but in this process; gives its exit code."""
    with mock.patch.object(sys, "argv", ["finetune", *words]), mock.patch.dict(os.environ):
        try:
            main()
        except SystemExit as told:
            return int(told.code or 0)
    return 0
