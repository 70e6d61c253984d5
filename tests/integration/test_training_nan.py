"""One number that is not finite, wherever it appears, stops the training in its step, by name, and reaches no file."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial import in_process
from trial.small_run import write_recipe

from finetune.errors import ArtifactError, TrainingStopped
from finetune.run import Run, checkpoint
from finetune.shards import shards

STEP, MICRO_BATCH = 3, 2
"""The number appears in the second micro-batch of step 3; the checkpoint before it is of step 2."""

Inject = Callable[[Any, list[bool]], object]
"""Gets the trainer, and whether the chosen micro-batch is at work now."""


def nan_in_an_activation(trainer: Any, now: list[bool]) -> None:
    def poison(module: Any, given: Any, out: torch.Tensor) -> torch.Tensor:
        if now[0]:
            out = out.clone()
            out.view(-1)[7] = math.nan
        return out

    trainer.model.get_base_model().model.layers[1].mlp.register_forward_hook(poison)


def nan_in_the_loss(trainer: Any, now: list[bool]) -> None:
    compute_loss = trainer.compute_loss

    def poisoned(*given: Any, **named: Any) -> Any:
        loss = compute_loss(*given, **named)
        return loss * math.nan if now[0] else loss

    trainer.compute_loss = poisoned


def nan_in_one_gradient(trainer: Any, now: list[bool]) -> None:
    def poison(gradient: torch.Tensor) -> torch.Tensor:
        return gradient.index_fill(0, torch.tensor([0]), math.nan) if now[0] else gradient

    first_of(trainer, "lora_B").register_hook(poison)


def infinite_gradient(trainer: Any, now: list[bool]) -> None:
    first_of(trainer, "lora_A").register_hook(lambda gradient: gradient + math.inf if now[0] else gradient)


def nan_in_a_trained_weight(trainer: Any, now: list[bool]) -> None:
    poison_before_the_step(trainer, now, first_of(trainer, "lora_A"))


def nan_in_a_frozen_weight(trainer: Any, now: list[bool]) -> None:
    poison_before_the_step(trainer, now, first_of(trainer, "layers.2.input_layernorm"))


def poison_before_the_step(trainer: Any, now: list[bool], weight: torch.Tensor) -> None:
    def poison(module: Any, given: Any) -> None:
        if now[0]:
            weight.data.view(-1)[3] = math.nan

    trainer.model.get_base_model().model.register_forward_pre_hook(poison)


INJECTIONS: dict[Inject, str] = {
    nan_in_an_activation: "the loss",
    nan_in_the_loss: "the loss",
    nan_in_one_gradient: "a gradient",
    infinite_gradient: "a gradient",
    nan_in_a_trained_weight: "the loss",
    nan_in_a_frozen_weight: "the loss",
}


@pytest.fixture(scope="module")
def recipe(pico_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("nan"), pico_base, num_rows=24, long_row=False)


@pytest.mark.parametrize("inject", INJECTIONS, ids=lambda inject: inject.__name__)
def test_a_number_that_is_not_finite_stops_the_run_in_its_step(recipe: Path, tmp_path: Path, inject: Inject) -> None:
    run, dataset = begin(recipe, tmp_path)
    guilty: list[str] = []
    with pytest.raises(TrainingStopped) as told:
        in_process.train(run, dataset, touch=lambda trainer: arm(trainer, inject, guilty))
    assert told.value.exit_code == 7
    (problem,) = told.value.problems
    assert problem.what.startswith(f"{INJECTIONS[inject]} is not finite at step {STEP} (loss ")
    assert problem.where == ", ".join(guilty)
    assert len(guilty) == 2, "a micro-batch holds two rows"
    assert str(run.checkpoints / "checkpoint-2") in problem.why
    assert "--set train.learning_rate=0.0025" in problem.fix
    assert_nothing_was_lost_or_spoilt(run, last_step=STEP - 1)


def test_a_weight_that_an_optimizer_step_spoilt_is_not_saved(recipe: Path, tmp_path: Path) -> None:
    def spoil_after_the_step(trainer: Any) -> None:
        step = trainer.create_optimizer().step

        def spoiling(*given: Any, **named: Any) -> None:
            step(*given, **named)
            if trainer.state.global_step == STEP - 1:
                first_of(trainer, "lora_A").data.view(-1)[0] = math.inf

        trainer.optimizer.step = spoiling

    run, dataset = begin(recipe, tmp_path)
    with pytest.raises(TrainingStopped, match=f"a trained weight is not finite after step {STEP}"):
        in_process.train(run, dataset, touch=spoil_after_the_step)
    assert_nothing_was_lost_or_spoilt(run, last_step=STEP)


def test_a_held_out_row_that_overflows_is_named(pico_base: Path, tmp_path: Path) -> None:
    run, dataset = begin(write_recipe(tmp_path, pico_base), tmp_path)
    second = len(dataset.held_out[1])
    with pytest.raises(TrainingStopped, match="the held-out loss is not finite at step 0") as told:
        in_process.train(run, dataset, touch=lambda trainer: poison_where_long(trainer, second))
    assert told.value.problems[0].where.endswith("held_out.jsonl:2")


def test_the_command_ends_with_exit_code_7(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guilty: list[str] = []
    words = ["train", str(recipe), "--runs", str(tmp_path / "runs"), "--set=train.save_every=1", "--quiet"]
    with in_process.touched(lambda trainer: arm(trainer, nan_in_the_loss, guilty)):
        assert in_process.command(*words) == 7
    told = capsys.readouterr()
    assert told.out == ""
    assert f"\n  where {', '.join(guilty)}\n" in told.err


def begin(recipe: Path, folder: Path) -> tuple[Run, Any]:
    return in_process.begin(recipe, folder / "runs", "train.save_every=1")


def first_of(trainer: Any, part: str) -> torch.nn.Parameter:
    return next(parameter for name, parameter in trainer.model.named_parameters() if part in name)


def arm(trainer: Any, inject: Inject, guilty: list[str]) -> None:
    """Lets the injection work in one micro-batch only, and notes the rows of that one."""
    now, taken = [False], [0]
    training_step = trainer.training_step

    def stepping(model: Any, inputs: dict[str, Any], *given: Any, **named: Any) -> Any:
        taken[0] = taken[0] + 1 if trainer.state.global_step == STEP - 1 else 0
        now[0] = taken[0] == MICRO_BATCH
        if now[0]:
            guilty.extend(trainer.examples[row].place for row in inputs["index"].tolist())
        return training_step(model, inputs, *given, **named)

    trainer.training_step = stepping
    inject(trainer, now)


def poison_where_long(trainer: Any, length: int) -> None:
    def poison(module: Any, given: Any, out: torch.Tensor) -> torch.Tensor:
        return out * math.inf if out.shape[1] == length else out

    trainer.model.get_base_model().model.embed_tokens.register_forward_hook(poison)


def assert_nothing_was_lost_or_spoilt(run: Run, last_step: int) -> None:
    newest = checkpoint.newest_verified(run.checkpoints)
    assert (newest.step, newest.refused) == (STEP - 1, ())
    assert not run.adapter.exists()
    assert json.loads(run.manifest.read_text())["stages"] == []
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert max(record["step"] for record in records) == last_step
    for file in run.checkpoints.rglob("*.safetensors"):
        assert all(bool(tensor.isfinite().all()) for tensor in load_file(file).values()), file
    for file in run.checkpoints.rglob("optimizer.pt"):
        for state in torch.load(file, weights_only=True)["state"].values():
            assert all(bool(value.isfinite().all()) for value in state.values()), file


@pytest.mark.parametrize("method", ["qlora", "lora"])
def test_a_base_that_was_never_finite_is_told_before_the_first_step_by_the_weight(
    pico_base: Path, tmp_path: Path, method: str
) -> None:
    base, name = tmp_path / "base", "layers.1.mlp.up_proj.weight"
    shutil.copytree(pico_base, base)
    for file in shards(base):
        weights = load_file(file)
        for key in weights:
            if key.endswith(f"language_model.{name}"):
                weights[key][3, 5] = math.nan
        save_file(weights, file)
    run, dataset = in_process.begin(write_recipe(tmp_path, base, num_rows=8), tmp_path / "runs", f"method={method}")
    with pytest.raises(ArtifactError, match="a weight of the base is not finite") as told:
        in_process.train(run, dataset)
    assert told.value.problems[0].why == f"model.{name} holds an infinite number or none at all"
    assert not run.metrics.exists()
