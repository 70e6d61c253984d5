"""A finished run without its training: the folder that `finetune train` leaves, what it learnt drawn by chance.

The adapter, or of method `full` every weight, is written by training's own code, over the base that the plan asks for.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from finetune.data import prepare
from finetune.hardware import Hardware
from finetune.model import add_adapter, load_base, save_adapter, save_weights
from finetune.plan import make_plan, read_plan
from finetune.recipe import dump, load
from finetune.run import Entry, Run, atomic, create, manifest
from finetune.shape import read_shape
from finetune.train.contract import contract, versions
from trial.small_run import write_recipe

HARDWARE = Hardware((), 0, 2**38)
"""A CPU with so much memory that any plan fits."""


def begun_run(base: Path, folder: Path, *wishes: str) -> Run:
    """Makes the folder of a run, as `finetune train` begins it."""
    recipe = load(write_recipe(folder, base, num_rows=12, long_row=False), wishes)
    dataset = prepare(recipe, base)
    plan = make_plan(recipe, read_shape(str(base), base), HARDWARE, dataset.counts)
    recipe_yaml = dump(recipe, folder.absolute() / "runs" / "any-run")
    facts: dict[str, Any] = {
        "serving": {"thinking": dataset.thinking, "preserve_thinking": False, "system": None},
        "data": asdict(dataset.counts),
        "notes": [],
        "contract": contract(recipe_yaml, plan.to_json(), base, dataset, HARDWARE),
    }
    return create(folder / "runs", recipe.name, recipe_yaml, plan.to_json(), facts)


def finish(run: Run) -> Run:
    """Adds the entry by which a run is trained; its adapter or its weights are there."""
    learnt = run.weights if read_plan(run.plan).method == "full" else run.adapter
    outputs = {run.named(file): atomic.sha256(file) for file in sorted(learnt.iterdir())}
    begun = manifest.read_begun(run.manifest)["contract"]
    inputs = {key: begun[key] for key in ("recipe", "data", "template", "tokenizer", "base")}
    manifest.add(run.manifest, Entry("train", inputs, outputs, [], versions(), 0.0, manifest.now()))
    return run


def made_run(base: Path, folder: Path, *wishes: str, size: float = 0.02, seed: int = 0) -> Run:
    """Makes a finished run.

    Args:
        base: of it.
        folder: takes recipe, rows and `runs`.
        wishes: beside those of the small recipe.
        size: of the numbers in every B; magnitudes, routers, and weights that are all trained, are changed by as much.
        seed: of them.
    """
    run = begun_run(base, folder, *wishes)
    plan = read_plan(run.plan)
    model = load_base(base, plan)
    model = add_adapter(model, plan, dropout=0.0, seed=seed) if plan.method != "full" else model.requires_grad_(True)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_A" not in name:
            drawn = torch.randn(parameter.shape, generator=generator) * size
            parameter.data += drawn * parameter.data.abs().mean() * 5 if "magnitude" in name else drawn
    if plan.method == "full":
        save_weights(model, run.weights, base)
    else:
        save_adapter(model, run.adapter, plan)
    return finish(run)
