"""How many processes `finetune train` is, and the one that starts them when it is several."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from finetune.cli.quiet import quiet_libraries
from finetune.errors import OutsideError, RecipeError
from finetune.hardware import Hardware, check_launched, detect, is_launched, with_processes
from finetune.stopping import Stop, end_with_starter

if TYPE_CHECKING:
    from finetune.recipe import Recipe
    from finetune.run import Run

PROCESSES = typer.Option(
    None, "--processes", min=1, max=64, metavar="N", help="Processes on this machine; by default one for each GPU."
)

SIBLINGS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""How srun and mpirun tell a program that they started it several times, without what torch needs to join them.

Source: srun(1), OUTPUT ENVIRONMENT VARIABLES; docs.open-mpi.org, environment variables; Hydra's PMI.
"""


def machine(asked: int | None, run: Run | None) -> Hardware:
    """Finds the machine, and how many processes train on it.

    Args:
        asked: by `--processes`.
        run: that is resumed, if one is: with as many processes as it began with, where there are GPUs for them.

    Raises:
        RecipeError: as many were started already, or there are fewer GPUs.
        OutsideError: another program started several that would not know of one another, or told them nonsense.
    """
    check_launched()
    hardware = detect()
    if is_launched():
        end_with_starter()
        if asked is not None and asked != hardware.processes:
            why = f"torchrun or its like started {hardware.processes} already"
            raise RecipeError(
                "processes cannot be started twice", where=f"--processes {asked}", why=why, fix="leave it out"
            )
        return hardware
    for name in SIBLINGS:
        if (told := os.environ.get(name, "1")).isdecimal() and int(told) > 1:
            raise OutsideError(
                f"{told} processes were started that do not know of one another",
                where=f"{name}={told}",
                why="each would train alone",
                fix="finetune launch slurm RECIPE   # or start torchrun once on each machine",
            )
    if asked is None and run is not None:
        from finetune.plan import read_plan

        began = read_plan(run.plan).processes
        asked = min(began, len(hardware.gpus)) if hardware.gpus else began
    return hardware if asked is None else with_processes(hardware, asked)


def start(words: list[str], hardware: Hardware, wishes: Recipe | None, run: Run | None, runs: Path, stop: Stop) -> None:
    """Starts `finetune train` once for each process, and ends as they did.

    Args:
        words: that each is told.
        hardware: this machine.
        wishes: what is trained anew; looked at first, so that what is wrong with them is told once.
        run: or the run that is resumed.
        runs: the folder of runs.
        stop: which the processes obey, and this one only after them.

    Raises:
        RecipeError, DataError, DoesNotFit: what can be known of the wishes by rows and shapes alone is wrong.
        OutsideError: a process was killed.
        typer.Exit: with the exit code of them all.
    """
    from finetune.launch import is_finished, newest
    from finetune.launch.command import torchrun_flags
    from finetune.run import resume

    if wishes is not None:
        _look(wishes, hardware)
    quiet_libraries(hardware.processes)
    from finetune.train import reopen, starting

    if run is not None:
        reopen(run, hardware.processes)  # what is wrong with it is told once

    flags = torchrun_flags(1, hardware.processes)

    def going_on() -> str:
        begun = run or (newest(wishes, runs) if wishes is not None else None)
        if begun is None:
            return "give the command again"
        return f"finetune show {begun.path}   # it is finished" if is_finished(begun) else resume(begun.path)

    stop.idle, stop.silent = "", True  # the first of them speaks
    code = starting.start(hardware.processes, flags, words, going_on)
    if code:
        raise typer.Exit(code)


def _look(wishes: Recipe, hardware: Hardware) -> None:
    """Plans by rows and shapes alone, as the processes will do by tokens."""
    from finetune.data import count_rows
    from finetune.hub import locate
    from finetune.plan import check_fits, make_plan
    from finetune.shape import is_shipped, read_shape

    base = locate(wishes.base, wishes.base_path, wishes.revision)
    if base is not None or is_shipped(wishes.base):
        plan = make_plan(wishes, read_shape(wishes.base, base), hardware, count_rows(wishes))
        check_fits(plan, wishes, f"finetune plan {wishes.words()}")
