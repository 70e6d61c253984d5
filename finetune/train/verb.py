"""`finetune train`: begin a run, train it, prove what was trained. Resuming is the same call on the same folder."""

from __future__ import annotations

import importlib.util
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from finetune.architecture import read_model_type
from finetune.data import Dataset, count_rows, prepare
from finetune.errors import ArtifactError, DoesNotFit, OutsideError
from finetune.hardware import Hardware, detect_started
from finetune.hub import fetch, fetch_config, locate
from finetune.model import save_adapter, save_weights
from finetune.plan import Plan, check_family, check_fits, make_plan, read_plan
from finetune.recipe import Recipe, dump, load
from finetune.run import Claim, Entry, Run, anew, atomic, checkpoint, create, manifest, metrics, resume
from finetune.shape import is_shipped, read_shape
from finetune.stopping import Stop
from finetune.train import routers
from finetune.train.apart import check_apart
from finetune.train.assembly import assemble
from finetune.train.contract import check, check_unedited, contract, versions
from finetune.train.plot import draw_loss
from finetune.train.processes import agree, join, locked_together
from finetune.train.proof import claims
from finetune.train.readiness import look_once_more, memory_told
from finetune.train.rehearsal import memory_claims, rehearse
from finetune.train.trainer import ProvingTrainer
from finetune.train.watching import Watcher

Say = Callable[[str], None]
Report = Callable[[dict[str, Any]], None]


def begin(recipe: Recipe, runs: Path, stop: Stop, say: Say) -> tuple[Run, Dataset]:
    """Plans the recipe on this machine and makes its run folder.

    Raises:
        RecipeError, DataError, ArtifactError, OutsideError: something that the recipe names is wrong; no run is made.
        DoesNotFit: the base's weights alone are larger than the memory; no run is made.
    """
    _check_trackers(recipe)
    hardware = detect_started()
    if locate(recipe.base, recipe.base_path, recipe.revision) is None:
        _check_before_download(recipe, hardware)
    base = fetch(recipe.base, recipe.base_path, recipe.revision)
    dataset = prepare(recipe, base)
    plan = make_plan(recipe, read_shape(recipe.base, base), hardware, dataset.counts)
    check_fits(plan, recipe, _planning(recipe))
    for note in (*plan.notes, *dataset.notes):
        say(f"note: {note}")
    look_once_more(recipe, plan, runs, base, say)
    processes = join(plan.device, expert=1)
    plan = min(processes.gather(plan), key=lambda each: each.gpu_bytes)  # each saw free bytes of another moment
    facts = _facts(recipe, plan, base, dataset, hardware, runs)
    agree(processes, facts["contract"])
    made = create(runs, recipe.name, facts.pop("recipe_yaml"), plan.to_json(), facts).path if processes.first else None
    run = Run(processes.from_first(made))
    stop.idle = resume(run.path)
    return run, dataset


def _check_before_download(recipe: Recipe, hardware: Hardware) -> None:
    """Refuses what cannot fit, by rows and shapes alone, or, where shapes are not shipped, what is another family."""
    if is_shipped(recipe.base):
        plan = make_plan(recipe, read_shape(recipe.base, None), hardware, count_rows(recipe))
        check_fits(plan, recipe, _planning(recipe))
    else:
        check_family(recipe, recipe.base, read_model_type(fetch_config(recipe.base, recipe.revision)))


def _planning(recipe: Recipe) -> str:
    return f"finetune plan {recipe.words()}"


def train(
    run: Run, stop: Stop, say: Say, report: Report, dataset: Dataset | None = None, cache: Path | None = None
) -> dict[str, Any]:
    """Trains a run to its end, from its newest checkpoint that verifies; proves it and gives its manifest entry.

    Args:
        run: the folder; everything else is read from it.
        stop: asked between steps.
        say: takes a line for the user.
        report: takes `{"steps": …}`, bytes while the base is loaded, then each record of metrics.jsonl.
        dataset: what `begin` prepared; prepared again when it is not given.
        cache: the folder in which quantised bases are kept for the next start; none is kept without one.

    Raises:
        ArtifactError: the base, the data or the packages are not those that the run began with.
        DoesNotFit: memory or disk is not there.
        TrainingStopped: a loss or gradient is not finite, or a family learns nothing.
        Interrupted: a signal came; the state is saved.
        RunLocked: another process works in the folder.
    """
    began, hardware = time.monotonic(), detect_started()
    recipe, plan = reopen(run, hardware.processes)
    processes = join(plan.device, plan.expert_parallel)
    say, report = (say, report) if processes.first else (_silent, _silent)
    with processes.losses_told(resume(run.path)), locked_together(run, processes):
        if (finished := _finished(run)) is not None:
            say("the run is finished; there is nothing to resume")
            return finished
        stop.idle = resume(run.path)
        base = fetch(recipe.base, recipe.base_path, recipe.revision)
        if dataset is None:
            look_once_more(recipe, plan, run.path.parent, base, say, atomic.taken_bytes(run.checkpoints))
            dataset = prepare(recipe, base)
        begun = check(run, base, dataset, hardware)
        agree(processes, {"data": dataset.sha256, "versions": versions(), "run": str(run.path.resolve())})
        _same_threads(begun["threads"])
        report({"steps": plan.steps})
        with memory_told(run, recipe, plan, base, hardware, dataset.counts):
            trainer, watcher = assemble(run, recipe, plan, base, dataset, stop, report, say, cache, processes)
            rehearsal, kept_apart = rehearse(trainer, base, say), check_apart(trainer, say)
            stop.idle = ""
            _train_on(run, trainer, watcher, dataset, say)
        if watcher.stopped:
            stop.check(resume(run.path))
        found = [*memory_claims(trainer, rehearsal), *kept_apart, *routers.report(run, trainer, dataset, say)]
        trainer.make_whole()
        return dict(processes.from_first(processes.first and _prove(run, trainer, dataset, found, begun, began)))


def _prove(
    run: Run,
    trainer: ProvingTrainer,
    dataset: Dataset,
    found: list[Claim],
    begun: dict[str, Any],
    began: float,
) -> dict[str, Any]:
    """Writes what was learnt, and adds the stage to the manifest with what was proven of it, which makes it so."""
    recipe, plan = trainer.recipe, trainer.plan
    artifact = _publish(run, plan, fetch(recipe.base, recipe.base_path, recipe.revision), trainer)
    found = [*claims(run, recipe, plan, dataset, trainer, artifact), *found]
    made = (*sorted(artifact.iterdir()), run.router)
    entry = Entry(
        stage="train",
        inputs={key: begun[key] for key in ("recipe", "data", "template", "tokenizer", "base")},
        outputs={str(file.relative_to(run.path)): atomic.sha256(file) for file in made if file.exists()},
        claims=found,
        versions=versions(),
        seconds=round(time.monotonic() - began, 1),
        finished=manifest.now(),
    )
    draw_loss(run)
    manifest.add(run.manifest, entry)
    return asdict(entry)


def reopen(run: Run, processes: int) -> tuple[Recipe, Plan]:
    """Reads what a run was begun with, its steps shared out over the processes that are here.

    Raises:
        ArtifactError: it was edited since.
        OutsideError: a dashboard that it reports to is not installed.
    """
    recipe = load(run.recipe)
    check_unedited(run, recipe)
    _check_trackers(recipe)
    return recipe, _shared_out(read_plan(run.plan), recipe, processes)


def _finished(run: Run) -> dict[str, Any] | None:
    """Gives the entry of a training that is over, once what it wrote was compared with what it proved.

    Raises:
        ArtifactError: a file is gone or another one.
    """
    entry = next((e for e in reversed(manifest.read_begun(run.manifest)["stages"]) if e["stage"] == "train"), None)
    for name, digest in (entry["outputs"] if entry else {}).items():
        file = run.path / name
        if not file.is_file() or atomic.sha256(file) != digest:
            raise ArtifactError(
                f"{name} is {'not the one that was proven' if file.is_file() else 'gone'}",
                where=str(file),
                why="the run is finished, so resuming does not write it again",
                fix=f"put it back, or train anew: {anew(run)}",
            )
    return entry


def _facts(recipe: Recipe, plan: Plan, base: Path, dataset: Dataset, hardware: Hardware, runs: Path) -> dict[str, Any]:
    """What stands at the head of the manifest: how the model is to be asked, and what a resume is held to."""
    recipe_yaml = dump(recipe, runs.absolute() / "any-run")
    return {
        "recipe_yaml": recipe_yaml,
        "serving": {
            "thinking": dataset.thinking,
            "preserve_thinking": recipe.data.preserve_thinking,
            "system": recipe.system,
        },
        "data": asdict(dataset.counts),
        "notes": [*plan.notes, *dataset.notes],
        "contract": contract(recipe_yaml, plan.to_json(), base, dataset, hardware),
    }


def _train_on(run: Run, trainer: ProvingTrainer, watcher: Watcher, dataset: Dataset, say: Say) -> None:
    """Trains from the newest checkpoint that verifies, or from the start."""
    newest = checkpoint.newest_verified(run.checkpoints)
    for name, reason in newest.refused:
        say(f"checkpoint refused: {name}: {reason}")
    if trainer.processes.first:
        metrics.rewind(run.metrics, newest.step if newest.path else -1)
    trainer.processes.gather(None)
    if newest.path is None:
        routers.note_base(run, trainer, dataset)
    else:
        say(f"resuming at step {newest.step} from {newest.path.name}")
    if newest.path and newest.step == trainer.plan.steps:  # killed between the last step and the adapter
        trainer.restore(newest.path)
        trainer.state.global_step = newest.step
        watcher.evaluate(newest.step)
    else:
        with trainer.processes.losses_told(resume(run.path)):
            trainer.train(resume_from_checkpoint=str(newest.path) if newest.path else None)


def _publish(run: Run, plan: Plan, base: Path, trainer: ProvingTrainer) -> Path:
    """Writes what was learnt, whole or not at all."""
    final = run.weights if plan.method == "full" else run.adapter
    staging = run.path / f".staging-{final.name}"
    for leftover in (staging, final):  # of a process that was killed before its manifest entry
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)
    staging.mkdir()
    if plan.method == "full":
        save_weights(trainer.model, staging, base)
    else:
        save_adapter(trainer.model, staging, plan)
    for file in staging.iterdir():
        shutil.copymode(run.recipe, file)  # safetensors lets only the owner read what it writes
    atomic.publish(staging, final)
    return final


def _same_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _check_trackers(recipe: Recipe) -> None:
    """Makes sure that the dashboards that the recipe names are installed, before anything is loaded."""
    for tracker in recipe.train.report_to:
        if importlib.util.find_spec(tracker) is None:
            raise OutsideError(
                f"{tracker} is not installed",
                where=recipe.where("train.report_to"),
                why="the recipe reports to it",
                fix=f"pip install {tracker}",
            )


def _shared_out(plan: Plan, recipe: Recipe, processes: int) -> Plan:
    """Shares a step's examples out over the processes that are here, if they are not as many as the plan said.

    Raises:
        DoesNotFit: their number does not divide a step.
    """
    if processes == plan.processes:
        return plan
    batch = recipe.train.batch_size
    if recipe.data.packing:
        why = "what is packed trains in one process"
        raise DoesNotFit("the run is packed", where=f"WORLD_SIZE={processes}", why=why, fix="--processes 1")
    if batch % processes:
        fits = max(n for n in range(1, processes + 1) if batch % n == 0)
        why, fix = f"a step has {batch} examples", f"--processes {fits}   # or torchrun --nproc-per-node {fits}"
        raise DoesNotFit(
            f"{processes} processes cannot share a step", where=f"WORLD_SIZE={processes}", why=why, fix=fix
        )
    micro = max(n for n in range(1, plan.choices.micro_batch + 1) if batch // processes % n == 0)
    choices = replace(plan.choices, micro_batch=micro, accumulation=batch // processes // micro)
    expert = math.gcd(plan.expert_parallel, processes)
    return replace(plan, choices=choices, processes=processes, expert_parallel=expert, zero=plan.zero * (processes > 1))


def _silent(told: Any) -> None:
    """What the other processes tell nobody."""
