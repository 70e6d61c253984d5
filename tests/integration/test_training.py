"""What a training must be to count as one: the layers of the plan, every family alive, every claim measured."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial import in_process
from trial.comparison import figures
from trial.small_run import write_recipe

from finetune.errors import TrainingStopped
from finetune.model import family_of
from finetune.run import Run

LINEAR_LAYERS, FULL_LAYERS = 3, 1
DENSE = {"linear_attention": 3 * LINEAR_LAYERS, "attention": 4 * FULL_LAYERS, "mlp": 3 * 4}
"""Layers with an adapter. A mixture of experts has the same, its shared experts where the mlp stood, and these:"""
ROUTED = {"experts": 2 * 4}

BASES = ("pico_base", "pico_tied_base", "pico_moe_base")
FAMILIES = {"attention", "embeddings", "linear_attention", "lm_head", "mlp", "norms"}
STEPS = 2


@pytest.fixture(params=BASES)
def base(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def train(base: Path, folder: Path, *wishes: str, **more: Any) -> tuple[Run, in_process.Trained]:
    recipe = write_recipe(folder, base, num_rows=16, long_row=False)
    run, dataset = in_process.begin(recipe, folder / "runs", f"train.max_steps={STEPS}", *wishes)
    return run, in_process.train(run, dataset, **more)


def measured(trained: in_process.Trained) -> dict[str, Any]:
    assert all(claim["holds"] for claim in trained.entry["claims"]), trained.entry["claims"]
    return {claim["claim"]: claim["measured"] for claim in trained.entry["claims"]}


@pytest.mark.parametrize("method", ["qlora", "lora"])
def test_the_layers_of_the_plan_are_trained_and_nothing_else(base: Path, tmp_path: Path, method: str) -> None:
    run, trained = train(base, tmp_path, f"method={method}")
    plan = json.loads(run.plan.read_text())
    model = trained.trainer.model
    adapted = Counter(family_of(name) for name, _ in model.named_parameters() if "lora_A" in name)
    expected = DENSE | (ROUTED if "moe" in base.name else {})
    assert dict(adapted) == plan["num_targets"] == expected
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trainable)
    assert sum(p.numel() for p in trainable.values()) == plan["trainable_parameters"]
    assert {p.dtype for p in trainable.values()} == {torch.float32}
    quantised = {family_of(n) for n, p in model.named_parameters() if p.dtype == torch.uint8}
    assert quantised == ({"linear_attention", "attention", "mlp"} if method == "qlora" else set())
    told = measured(trained)
    assert told["optimizer steps taken"] == STEPS
    layers = sum(expected.values())
    assert told["layers with an adapter"] == told["lora_B with a gradient at step 1"] == layers
    assert told["lora_A with a gradient at step 2"] == layers
    assert told["adapter tensors read back bit-identical"] == 2 * layers
    assert told["trainable parameters"] == plan["trainable_parameters"]
    assert told["learnt tokens in an epoch"] == plan["learnt_tokens"]
    assert told["held-out loss fell by"] > 0


def test_bytes_are_told_by_dtype_as_they_lie_in_memory(pico_base: Path, tmp_path: Path) -> None:
    run, trained = train(pico_base, tmp_path)
    plan = json.loads(run.plan.read_text())
    told = measured(trained)
    quantised = sum(p.numel() for p in trained.trainer.model.parameters() if p.dtype == torch.uint8)
    assert told["bytes held as uint8"] == quantised, "two weights a byte"
    others = plan["total_parameters"] - 2 * quantised + plan["trainable_parameters"]
    assert told["bytes held as float32"] == 4 * others


@pytest.mark.parametrize("family", DENSE)
def test_a_family_alone_is_trained_alone(pico_base: Path, tmp_path: Path, family: str) -> None:
    run, trained = train(pico_base, tmp_path, f"lora.targets=[{family}]")
    adapter = load_file(run.adapter / "adapter_model.safetensors")
    assert Counter(family_of(name) for name in adapter if "lora_A" in name) == {family: DENSE[family]}
    assert all(bool(tensor.any()) for tensor in adapter.values()), "both halves of every adapter moved"
    assert measured(trained)["lora_B with a gradient at step 1"] == DENSE[family]


def test_full_training_moves_every_family_and_reads_back(base: Path, tmp_path: Path) -> None:
    run, trained = train(base, tmp_path, "method=full", "lora.dropout=0", "train.learning_rate=1e-3")
    plan = json.loads(run.plan.read_text())
    told = measured(trained)
    assert told["trainable parameters"] == plan["trainable_parameters"] == plan["total_parameters"]
    (gradients,) = [record["gradients"] for record in figures(run.path) if "gradients" in record]
    tied, moe = "tied" in base.name, "moe" in base.name
    assert gradients["alive"].keys() == FAMILIES - {"lm_head" if tied else ""} | (
        {"experts", "router"} if moe else set()
    )
    assert gradients["dead"] == {}
    read = AutoModelForCausalLM.from_pretrained(run.weights, dtype=torch.float32).state_dict()
    trained_state = trained.trainer.model.state_dict()
    assert read.keys() == trained_state.keys()
    assert all(torch.equal(read[name], trained_state[name]) for name in read)


@pytest.mark.parametrize("family", DENSE)
def test_a_family_without_a_gradient_is_stopped_in_the_first_step(pico_base: Path, tmp_path: Path, family: str) -> None:
    with pytest.raises(TrainingStopped, match=f"lora_B of {family} got no gradient at step 1") as told:
        train(pico_base, tmp_path, touch=lambda trainer: freeze(trainer, family, "lora_B"))
    words = re.fullmatch(r"--set 'lora\.targets=\[(.+)\]'", told.value.problems[0].fix)
    assert words is not None
    assert {*words[1].split(",")} == {*DENSE} - {family}


def test_a_family_whose_first_half_is_dead_is_stopped_in_the_second_step(pico_base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match="lora_A of mlp got no gradient at step 2"):
        train(pico_base, tmp_path, touch=lambda trainer: cut(trainer, "mlp", "lora_A"))


def test_full_training_without_a_familys_gradient_is_stopped(pico_base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match="the weights of attention got no gradient at step 1"):
        train(
            pico_base, tmp_path, "method=full", "lora.dropout=0", touch=lambda trainer: freeze(trainer, "attention", "")
        )


def test_no_pickle_of_the_arguments_is_written(pico_base: Path, tmp_path: Path) -> None:
    run, _ = train(pico_base, tmp_path)
    files = {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}
    checkpoint = (
        "adapter_config.json",
        "adapter_model.safetensors",
        "base.sha256",
        "checkpoint.json",
        "optimizer.pt",
        "rng_state.pth",
        "scheduler.pt",
        "trainer_state.json",
    )
    assert files == {
        ".lock",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        *(f"checkpoints/checkpoint-2/{name}" for name in checkpoint),
        "loss.png",
        "manifest.json",
        "metrics.jsonl",
        "plan.json",
        "recipe.yaml",
    }
    assert {path.stat().st_mode & 0o777 for path in run.adapter.iterdir()} == {run.recipe.stat().st_mode & 0o777}


def freeze(trainer: Any, family: str, part: str) -> None:
    for name, parameter in trainer.model.named_parameters():
        if family_of(name) == family and part in name:
            parameter.requires_grad_(False)


def cut(trainer: Any, family: str, part: str) -> None:
    """Lets gradients vanish on their way, as a detached tensor does."""
    for name, parameter in trainer.model.named_parameters():
        if family_of(name) == family and part in name:
            parameter.register_hook(torch.zeros_like)
