"""Which run a job that starts again goes on with."""

from __future__ import annotations

from pathlib import Path

from finetune import atomic
from finetune.recipe import Recipe, dump
from finetune.run import Run, list_runs, manifest


def newest_unfinished(recipe: Recipe, runs: Path) -> Run | None:
    """Finds the newest run of exactly these wishes, if it is not finished.

    Two jobs of equal wishes at the same time find the same run; the second ends with exit code 73, its lock being held.

    Raises:
        ArtifactError: the folder of runs, a recipe in it or that run's manifest cannot be read.
    """
    run = newest(recipe, runs)
    return None if run is None or is_finished(run) else run


def newest(recipe: Recipe, runs: Path) -> Run | None:
    """Finds the newest run of exactly these wishes.

    A run of the same recipe with another override, or from before the recipe was edited, is another run.

    Raises:
        ArtifactError: the folder of runs or a recipe in it cannot be read.
    """
    wanted = dump(recipe, runs.absolute() / "any-run").encode()
    for run in reversed(list_runs(runs)):
        with atomic.refusal_told(run.recipe, f"ls -l {run.recipe}   tells who may read it"):
            same = run.recipe.read_bytes() == wanted
        if same:
            return run
    return None


def is_finished(run: Run) -> bool:
    """Tells whether a run was trained to its end and proven.

    Raises:
        ArtifactError: its manifest cannot be read.
    """
    return any(stage["stage"] == "train" for stage in manifest.read(run.manifest)["stages"])
