"""Routers that are trained: kept as plain PEFT reads them, evened out by transformers' own auxiliary loss, resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, TrainerCallback
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import load_balancing_loss_func

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial import in_process
from trial.comparison import differences, figures
from trial.small_run import write_recipe

from finetune.errors import Interrupted, TrainingStopped
from finetune.generate import open_tuned
from finetune.model import base_alone
from finetune.train.batches import FILLER, collate

COEF, LAYERS, ROWS = 0.5, 4, 7
WISHES = (
    "method=lora",
    "lora.router=true",
    "lora.dropout=0",
    f"train.router_aux_loss_coef={COEF}",
    "train.max_grad_norm=1e9",
    "train.max_steps=2",
    "train.warmup=0",
    "train.learning_rate=0.01",
    "train.batch_size=8",
)
"""A step of 7 rows in micro-batches of 2, 2, 2 and 1."""

pytestmark = (
    pytest.mark.filterwarnings(  # PEFT 0.21 looks for these keys among modules only, and applies them all the same
        "ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning"
    )
)


class Noting(TrainerCallback):
    """Notes the micro-batches of the first step, and the gradients that came of them."""

    def __init__(self) -> None:
        self.batches: list[dict[str, torch.Tensor]] = []
        self.gradients: dict[int, torch.Tensor] = {}
        self.trainer: Any = None

    def touch(self, trainer: Any) -> None:
        """Begins to note."""
        self.trainer, make = trainer, trainer.data_collator
        trainer.data_collator = lambda rows: self.batches.append(make(rows)) or self.batches[-1]
        trainer.add_callback(self)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if not self.gradients:
            weights = [p for name, p in self.trainer.model.named_parameters() if "gate.modules_to_save" in name]
            self.gradients = {layer: weight.grad.clone() for layer, weight in enumerate(weights)}


@pytest.fixture(scope="module")
def trained(pico_moe_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("trained")
    recipe = write_recipe(folder, pico_moe_base, num_rows=ROWS, long_row=False)
    run, dataset = in_process.begin(recipe, folder / "runs", *WISHES)
    noted = Noting()
    done = in_process.train(run, dataset, touch=noted.touch)
    return {"run": run, "recipe": recipe, "dataset": dataset, "noted": noted, "done": done, "base": pico_moe_base}


def routers(model: Any) -> dict[int, torch.Tensor]:
    return {layer: block.mlp.gate.weight for layer, block in enumerate(model.model.layers)}


def logits(model: Any, rows: list[Any]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([model(input_ids=torch.tensor([row.ids])).logits[0] for row in rows])


def test_a_step_has_the_gradient_of_transformers_own_losses_weighed_by_tokens(trained: dict[str, Any]) -> None:
    model = AutoModelForCausalLM.from_pretrained(trained["base"], dtype=torch.float32).train()
    batches = trained["noted"].batches[1:5]  # the first was the rehearsal's
    assert [len(batch["index"]) for batch in batches] == [2, 2, 2, 1]
    learnt = sum((batch["labels"][:, 1:] != -100).sum() for batch in batches)
    tokens = sum(batch["attention_mask"].sum() for batch in batches)
    auxiliary = torch.zeros(())
    for batch in batches:
        given = {name: batch[name] for name in ("input_ids", "attention_mask")}
        out = model(**given, use_cache=False, output_router_logits=True)
        nll = cross_entropy(out.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum")
        even = out.aux_loss * batch["attention_mask"].sum() / tokens
        (nll / learnt + COEF * even).backward()
        auxiliary += even.detach()
    # fp32, in which sums over tokens and experts come in another order
    for layer, weight in routers(model).items():
        gradient = trained["noted"].gradients[layer]
        assert (gradient - weight.grad).norm() / weight.grad.norm() < 1e-5
    first = next(record for record in figures(trained["run"].path) if "loss" in record)
    assert first["aux_loss"] == pytest.approx(auxiliary.item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_the_auxiliary_loss_keeps_is_what_the_plan_counts(dtype: torch.dtype) -> None:
    layers, tokens, experts, chosen = 3, 500, 256, 8
    said = tuple(torch.randn(tokens, experts, dtype=dtype).requires_grad_() for _ in range(layers))
    kept = {logits.untyped_storage().data_ptr(): logits.nbytes for logits in said}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = load_balancing_loss_func(said, experts, chosen, torch.ones(1, tokens, dtype=torch.int64))
    assert loss > 0
    counted = layers * tokens * (2 * dtype.itemsize * experts + 8 * chosen)
    assert sum(kept.values()) == pytest.approx(counted, rel=0.02)


def test_a_process_left_with_filler_alone_adds_nothing_and_stays_finite(trained: dict[str, Any]) -> None:
    trainer = trained["done"].trainer
    batch = collate([{"index": FILLER}], examples=[], pad=0)
    assert batch["attention_mask"].sum() == 0
    trainer.model.train()
    trainer.load_counter.take()
    batch.pop("index")
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(10))
    loss.backward()
    assert loss == 0
    assert not any(p.grad.any() for p in trainer.model.parameters() if p.grad is not None)
    assert not trainer.load_counter.take().any()
    trainer.model.zero_grad()
    trainer.model.eval()


def test_the_plan_counts_routers_and_the_adapter_holds_each_of_them(trained: dict[str, Any]) -> None:
    run, model = trained["run"], trained["done"].trainer.model
    plan = json.loads(run.plan.read_text())
    saved = load_file(run.adapter / "adapter_model.safetensors")
    names = [f"base_model.model.model.layers.{layer}.mlp.gate.weight" for layer in range(LAYERS)]
    assert sorted(name for name in saved if "lora_" not in name) == names
    assert {saved[name].dtype for name in names} == {torch.float32}
    base = routers(AutoModelForCausalLM.from_pretrained(trained["base"], dtype=torch.float32))
    assert all(not torch.equal(saved[name], base[layer]) for layer, name in enumerate(names)), "each has moved"
    assert plan["num_routers"] == LAYERS
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert plan["trainable_parameters"] == sum(p.numel() for p in trainable)
    assert sum(t.numel() for t in saved.values()) == plan["trainable_parameters"]
    claims = {claim["claim"]: claim for claim in trained["done"].entry["claims"]}
    assert all(claim["holds"] for claim in claims.values() if not claim["claim"].startswith("held-out"))
    assert claims["lora_B and routers with a gradient at step 1"]["measured"] == sum(plan["num_targets"].values()) + 4


def test_plain_peft_reads_trained_routers_and_merges_them(trained: dict[str, Any]) -> None:
    rows = trained["dataset"].held_out
    model = trained["done"].trainer.model.eval()
    bare = AutoModelForCausalLM.from_pretrained(trained["base"], dtype=torch.float32).eval()
    base, ours = logits(bare, rows), logits(model, rows)
    read = PeftModel.from_pretrained(bare, trained["run"].adapter).eval()
    # PEFT makes W + BA of a routed expert, we never do: the sums are rounded in another order
    assert (logits(read, rows) - ours).abs().max() < 2e-5
    merged = read.merge_and_unload()
    assert (logits(merged, rows) - ours).abs().max() < 2e-5
    assert (ours - base).abs().max() > 0.01
    saved = load_file(trained["run"].adapter / "adapter_model.safetensors")
    for layer, weight in routers(merged).items():
        assert torch.equal(weight, saved[f"base_model.model.model.layers.{layer}.mlp.gate.weight"])


def test_our_own_reader_takes_them_and_leaves_them_out_with_the_adapter(trained: dict[str, Any]) -> None:
    rows = trained["dataset"].held_out
    tuned = open_tuned(trained["run"]).model
    bare = AutoModelForCausalLM.from_pretrained(trained["base"], dtype=torch.float32).eval()
    assert torch.equal(logits(tuned, rows), logits(trained["done"].trainer.model.eval(), rows))
    with base_alone(tuned):
        assert (logits(tuned, rows) - logits(bare, rows)).abs().max() < 2e-5


def test_a_resumed_run_with_trained_routers_is_the_same_run(trained: dict[str, Any], tmp_path: Path) -> None:
    wishes = (*WISHES, "train.save_every=1")
    run, dataset = in_process.begin(trained["recipe"], tmp_path, *wishes)
    in_process.train(run, dataset)
    again, dataset = in_process.begin(trained["recipe"], tmp_path, *wishes)
    with pytest.raises(Interrupted):
        in_process.train(again, dataset, stop_after=1)
    in_process.train(again)
    assert differences(again.path, run.path) == []


def test_a_router_without_a_gradient_is_stopped_in_the_first_step(trained: dict[str, Any], tmp_path: Path) -> None:
    def freeze(trainer: Any) -> None:
        for name, parameter in trainer.model.named_parameters():
            if "gate.modules_to_save" in name:
                parameter.requires_grad_(False)

    run, dataset = in_process.begin(trained["recipe"], tmp_path, *WISHES)
    with pytest.raises(TrainingStopped, match="lora_B and routers of router got no gradient at step 1") as told:
        in_process.train(run, dataset, touch=freeze)
    assert told.value.problems[0].fix == "--set lora.router=false"


@pytest.mark.slow
def test_experts_spread_over_two_processes_train_routers_as_one_does(trained: dict[str, Any], tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    wishes = [f"--set={wish}" for wish in (*WISHES, "parallel.zero=2", "parallel.expert=2")]
    command = [*launcher, "-m", "finetune", "train", str(trained["recipe"]), "--runs", str(tmp_path), *wishes]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=240, env=os.environ)
    assert done.returncode == 0, done.stderr[-3000:]
    spread = tmp_path / trained["run"].name
    for one, two in zip(figures(trained["run"].path), figures(spread), strict=True):
        # the last process of the step is left without a row
        assert {key: two[key] for key in two if "router" in key} == {key: one[key] for key in one if "router" in key}
        for key in {"loss", "aux_loss", "grad_norm", "held_out_loss"} & one.keys():
            assert two[key] == pytest.approx(one[key], rel=1e-4)
    ours, theirs = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (trained["run"].path, spread))
    assert ours.keys() == theirs.keys()
    for name in ours:  # AdamW's first steps move by the sign of a gradient, however small: see docs/experts.md
        assert (ours[name] - theirs[name]).norm() / ours[name].norm() < 2e-3
