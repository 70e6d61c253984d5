"""What the routers do: counted once each while they train, compared with the base on the same rows, drawn."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3_5MoeTextConfig
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeSparseMoeBlock

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial import in_process
from trial.comparison import figures
from trial.small_run import write_recipe

from finetune.errors import Interrupted
from finetune.experts.loads import LoadCounter, Loads, expert_blocks, rerouted
from finetune.model import base_alone, chosen_experts
from finetune.train.routers import compared, rows_looked_at

ROWS, STEPS, LAYERS, EXPERTS, CHOSEN = 16, 2, 4, 8, 2


@pytest.fixture(scope="module")
def trained(pico_moe_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run whose step is an epoch, in padded micro-batches of two whose layers are computed again in backward."""
    folder = tmp_path_factory.mktemp("routers")
    recipe = write_recipe(folder, pico_moe_base, num_rows=ROWS)
    wishes = (f"train.batch_size={ROWS}", f"train.max_steps={STEPS}", "lora.dropout=0", "train.learning_rate=0.01")
    run, dataset = in_process.begin(recipe, folder / "runs", *wishes)
    seen: dict[str, Any] = {"run": run, "dataset": dataset, "counts": []}

    def touch(trainer: Any) -> None:
        seen["base"] = chosen_experts(trainer.model, [example.ids for example in dataset.train])
        take = trainer.load_counter.take

        def taken() -> torch.Tensor:
            seen["counts"].append(take())
            return seen["counts"][-1]

        trainer.load_counter.take = taken

    seen["trained"] = in_process.train(run, dataset, touch=touch)
    return seen


def test_each_token_is_counted_once_though_layers_are_recomputed_and_rows_padded(trained: dict[str, Any]) -> None:
    tokens = sum(len(example.ids) for example in trained["dataset"].train)
    first, second = trained["counts"]
    assert first.sum(1).tolist() == second.sum(1).tolist() == [tokens * CHOSEN] * LAYERS
    # one row at a time and not two: sums in another order may decide between two experts that are as good
    assert (first - Loads.of(trained["base"], EXPERTS).counts).abs().sum() <= 4


def test_each_step_tells_the_skew_of_its_own_tokens(trained: dict[str, Any]) -> None:
    steps = [record for record in figures(trained["run"].path) if "loss" in record]
    assert len(steps) == STEPS
    for record, counts in zip(steps, map(Loads, trained["counts"]), strict=True):
        assert record["router_skew"] == pytest.approx(sum(counts.skew) / LAYERS)
        assert record["router_skew_max"] == max(counts.skew)
        assert record["router_idle"] == sum(counts.idle)


def test_the_report_compares_the_tuned_model_with_the_base_on_held_out_rows(trained: dict[str, Any]) -> None:
    run, dataset = trained["run"], trained["dataset"]
    told = json.loads(run.router.read_text())
    rows = [example.ids for example in dataset.held_out]
    assert told["rows"] == {"of": "held-out", "rows": len(rows), "tokens": sum(map(len, rows))}
    model = trained["trained"].trainer.model
    after = chosen_experts(model, rows)
    with base_alone(model):
        base = chosen_experts(model, rows)
    assert told == {"rows": told["rows"], **json.loads(json.dumps(compared(base, after, EXPERTS)))}
    assert told["summary"]["rerouted"] > 0
    assert len(told["layers"]) == LAYERS
    assert run.router_plot.read_bytes().startswith(b"\x89PNG")
    claims = {claim["claim"]: claim["measured"] for claim in trained["trained"].entry["claims"]}
    assert claims["routers: share of choices that go to other experts than the base's"] == told["summary"]["rerouted"]
    assert claims[f"routers: idle experts after training, of {LAYERS * EXPERTS}"] == told["summary"]["after"]["idle"]
    assert any(line.startswith("routers: ") for line in trained["trained"].said)


def test_without_held_out_rows_the_first_of_training_are_looked_at_and_no_more_than_enough(
    trained: dict[str, Any],
) -> None:
    dataset = replace(trained["dataset"], held_out=[])
    first, second = (list(example.ids) for example in dataset.train[:2])
    assert rows_looked_at(dataset, len(first) + 7) == ("training", [first, second[:7]])
    assert rows_looked_at(dataset, len(first)) == ("training", [first])


def test_a_resumed_run_compares_with_the_base_and_without_it_claims_nothing(
    pico_moe_base: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, pico_moe_base, num_rows=ROWS)
    reports = []
    for touched in (lambda run: None, lambda run: run.router_base.unlink()):
        run, dataset = in_process.begin(recipe, tmp_path / "runs", "train.max_steps=2", "train.save_every=1")
        with pytest.raises(Interrupted):
            in_process.train(run, dataset, stop_after=1)
        touched(run)
        reports.append((run, in_process.train(run, dataset)))
    (kept, told), (gone, silent) = reports
    assert json.loads(kept.router.read_text())["summary"]["rerouted"] > 0
    assert any(claim["claim"].startswith("routers") for claim in told.entry["claims"])
    assert not gone.router.exists()
    assert not any(claim["claim"].startswith("routers") for claim in silent.entry["claims"])
    lost = f"{gone.router_base.name} is gone or damaged, and with it what the base chose"
    assert f"no report on the routers: {lost}" in silent.said


def test_a_dense_base_has_no_report(pico_base: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, pico_base, num_rows=ROWS, long_row=False)
    run, dataset = in_process.begin(recipe, tmp_path / "runs", "train.max_steps=1")
    entry = in_process.train(run, dataset).entry
    assert not any(path.name.startswith("router") for path in run.path.iterdir())
    assert not any("router" in claim["claim"] for claim in entry["claims"])
    assert not any("router" in key for record in figures(run.path) for key in record)


def test_masked_tokens_are_not_counted_and_nothing_is_after_the_with() -> None:
    torch.manual_seed(0)
    config = Qwen3_5MoeTextConfig(
        num_experts=EXPERTS,
        hidden_size=16,
        num_experts_per_tok=CHOSEN,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=8,
    )
    blocks = torch.nn.ModuleList(Qwen3_5MoeSparseMoeBlock(config) for _ in range(2))
    for parameter in blocks.parameters():
        torch.nn.init.normal_(parameter)
    counter = LoadCounter(expert_blocks(blocks))
    hidden, mask = torch.randn(3, 5, 16), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    with counter.counting(mask):
        for block in blocks:
            block(hidden)
    blocks[0](hidden)
    real = hidden[mask.bool()]
    expected = torch.stack([block.gate(real)[2].flatten().bincount(minlength=EXPERTS) for block in blocks])
    assert torch.equal(counter.take(), expected)
    assert not counter.take().any()


def test_skew_idle_experts_and_drift_are_told() -> None:
    base = Loads(torch.tensor([[4, 4, 4, 4], [10, 0, 0, 0]]))
    now = Loads(torch.tensor([[8, 4, 4, 0], [0, 0, 5, 5]]))
    assert base.skew == [1.0, 4.0]
    assert now.skew == [2.0, 2.0]
    assert now.idle == [1, 2]
    assert now.drift(base) == [0.25, 1.0]


def test_tokens_that_change_places_move_no_load_and_are_told() -> None:
    base = torch.tensor([[[0, 1], [2, 3]], [[0, 1], [2, 3]]])
    now = torch.tensor([[[1, 0], [3, 2]], [[2, 1], [0, 3]]])
    assert rerouted(now, base) == [0.0, 0.5]
    assert Loads.of(now, 4).drift(Loads.of(base, 4)) == [0.0, 0.0]
    assert compared(base, now, 4)["summary"] == {
        "before": {"skew": 1.0, "skew_max": 1.0, "idle": 0},
        "after": {"skew": 1.0, "skew_max": 1.0, "idle": 0},
        "rerouted": 0.25,
        "load_drift": 0.0,
        "experts": 8,
    }
