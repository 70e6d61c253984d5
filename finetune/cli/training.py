"""`finetune train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from finetune import stopping
from finetune.cli import several
from finetune.cli.quiet import quiet_libraries
from finetune.errors import RecipeError
from finetune.hardware import is_first_process, is_launched

SET = typer.Option([], "--set", metavar="KEY=VALUE", help="Override a key of the recipe; may be repeated.")
CACHE = typer.Option(
    None,
    "--cache",
    metavar="FOLDER",
    envvar="FINETUNE_CACHE",
    help="Keep the quantised base here, so that the next start reads a third of the bytes.",
)
RUNS = typer.Option(Path("runs"), "--runs", help="The folder of runs.")


def train(
    recipe: Path | None = typer.Argument(None, help="The recipe, a YAML file."),
    overrides: list[str] = SET,
    resume: Path | None = typer.Option(None, "--resume", metavar="RUN", help="Go on with an interrupted run."),
    runs: Path = RUNS,
    cache: Path | None = CACHE,
    processes: int | None = several.PROCESSES,
    quiet: bool = typer.Option(False, "--quiet", help="No progress."),
    as_json: bool = typer.Option(False, "--json", help="Print what was proven as JSON instead of the run folder."),
) -> None:
    """Train a recipe to a proven adapter, or to proven weights. The last line on stdout is the run folder."""
    from finetune.plan import in_short, read_plan
    from finetune.recipe import load
    from finetune.run import open_run

    _one_of(recipe, resume, overrides)
    with stopping.heard() as stop:
        run = open_run(resume) if resume else None
        wishes = load(recipe, overrides) if recipe else None
        hardware = several.machine(processes, run)
        if hardware.processes > 1 and not is_launched():
            words = _words(recipe, overrides, resume, runs, cache, quiet=quiet, as_json=as_json)
            several.start(words, hardware, wishes, run, runs, stop)
            return
        quiet_libraries()
        from finetune.train import begin
        from finetune.train import train as train_run
        from finetune.train.progress import Progress

        progress, dataset = Progress(quiet or not is_first_process()), None
        if run is None:
            assert wishes is not None
            run, dataset = begin(wishes, runs, stop, progress.say)
        progress.say(f"run {run.path}")
        progress.say(f"plan {in_short(read_plan(run.plan))}")
        entry = train_run(run, stop, progress.say, progress.show, dataset, cache)
        progress.say(_summary(entry))
    if is_first_process():
        print(json.dumps({"run": str(run.path), **entry}) if as_json else run.path)


def _one_of(recipe: Path | None, resume: Path | None, overrides: list[str]) -> None:
    if (recipe is None) == (resume is None):
        raise RecipeError(
            "name a recipe or a run to resume, one of them",
            where="finetune train",
            fix="finetune train recipes/legal.yaml   # or: finetune train --resume runs/legal-0001",
        )
    if resume and overrides:
        raise RecipeError(
            "a resumed run cannot be changed",
            where=f"--set {overrides[0]}",
            why="it would be another run under the same name",
            fix=f"finetune train --resume {resume}",
        )


def _words(
    recipe: Path | None,
    overrides: list[str],
    resume: Path | None,
    runs: Path,
    cache: Path | None,
    *,
    quiet: bool,
    as_json: bool,
) -> list[str]:
    """Writes down what was typed for each of several processes."""
    words = ["train", *(word for each in overrides for word in ("--set", each)), "--runs", str(runs)]
    words += ["--resume", str(resume)] if resume else []
    words += ["--cache", str(cache)] if cache else []
    words += [word for word, given in (("--quiet", quiet), ("--json", as_json)) if given]
    return [*words, *(["--", str(recipe)] if recipe else [])]


def _summary(entry: dict[str, Any]) -> str:
    """Says in a few lines what was proven."""
    told = {claim["claim"]: claim["measured"] for claim in entry["claims"]}
    lines = [f"proven: {sum(c['holds'] for c in entry['claims'])} of {len(entry['claims'])} claims hold"]
    before, after = "held-out loss of the base, nats a token", "held-out loss after training, nats a token"
    if before in told:
        fell = told[after] < told[before]
        verdict = "fell" if fell else "DID NOT FALL: the tuning did not help on held-out rows"
        lines.append(f"held-out loss {told[before]:.4f} -> {told[after]:.4f}  {verdict}")
    return "\n".join(lines)
