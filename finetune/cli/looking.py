"""Commands that only look: `recipe schema|show`, `runs`, `show`. None of them imports torch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import typer

from finetune.errors import ArtifactError, RecipeError

SET = typer.Option([], "--set", metavar="KEY=VALUE", help="Override a key of the recipe; may be repeated.")
JSON = typer.Option(False, "--json", help="Print JSON.")


def schema() -> None:
    """Print the JSON Schema of a recipe, for editors."""
    from finetune.recipe import json_schema

    print(json.dumps(json_schema(), indent=2))


def show_recipe(recipe: Path = typer.Argument(help="The recipe."), overrides: list[str] = SET) -> None:
    """Print a recipe as it is understood, defaults written out."""
    from finetune.recipe import dump, load

    print(dump(load(recipe, overrides), recipe.parent.absolute()), end="")


def runs(folder: Path = typer.Option(Path("runs"), "--runs", help="The folder of runs."), as_json: bool = JSON) -> None:
    """List runs: how far they came and what they measured."""
    from finetune.run import list_runs

    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise RecipeError("this is not a folder of runs", where=f"--runs {folder}", fix=f"--runs {folder.parent}")
    found = [_row(run) for run in list_runs(folder)]
    if as_json:
        print(json.dumps(found, indent=2))
        return
    if not found:
        print(f"no runs in {folder}; begin one: finetune train recipes/legal.yaml")
        return
    print(f"{'run':<24}{'state':<13}{'step':>12}{'held-out loss':>20}  base")
    for row in found:
        step = f"{row['step']}/{row['steps']}"
        loss = " -> ".join(f"{value:.4f}" for value in row["held_out_loss"])
        print(f"{row['run']:<24}{row['state']:<13}{step:>12}{loss:>20}  {row['base']}")


def show(run: Path = typer.Argument(help="The run folder."), as_json: bool = JSON) -> None:
    """Print a run's chain of proofs."""
    from finetune.plan import in_short, read_plan
    from finetune.run import manifest, open_run

    opened = open_run(run)
    told = manifest.read_begun(opened.manifest)
    if as_json:
        print(json.dumps(told, indent=2))
        return
    print(f"{told['run']}, begun {told['created']}")
    print(f"plan {in_short(read_plan(opened.plan))}")
    for note in told["notes"]:
        print(f"note: {note}")
    for stage in told["stages"]:
        print(f"\n{stage['stage']}  finished {stage['finished']} after {stage['seconds']:,} s")
        for claim in stage["claims"]:
            mark = "ok  " if claim["holds"] else "FAIL"
            expected = f" of {figure(claim['tolerance'])}" if claim["tolerance"] is not None else ""
            print(f"  {mark} {claim['claim']}: {figure(claim['measured'])}{expected}")
        for name, digest in stage["outputs"].items():
            print(f"  out  {name}  sha256 {str(digest)[:16]}")
    if not told["stages"]:
        print(f"\nnothing is finished yet: finetune train --resume {run}")


def _row(run: Any) -> dict[str, Any]:
    from finetune.plan import read_plan
    from finetune.run import manifest, metrics

    try:
        told, planned = manifest.read_begun(run.manifest), read_plan(run.plan)
        records = metrics.read(run.metrics)
    except (ArtifactError, OSError):  # one damaged run does not hide the others; `show` tells what is wrong with it
        return {"run": run.name, "state": "damaged", "step": 0, "steps": 0, "held_out_loss": [], "base": "?"}
    held = [record["held_out_loss"] for record in records if "held_out_loss" in record]
    return {
        "run": run.name,
        "state": "trained" if any(s["stage"] == "train" for s in told["stages"]) else "unfinished",
        "step": max((record["step"] for record in records if "loss" in record), default=0),
        "steps": planned.steps,
        "held_out_loss": [held[0], held[-1]] if len(held) > 1 else held,
        "base": planned.base,
    }


def figure(value: Any) -> str:
    """Writes a figure as it is read best."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"
