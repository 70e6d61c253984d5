"""The ledger: losses as training scores them, what is kept of a tuning and how surely, and what is to be done."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial.made_run import made_run

from finetune import engine
from finetune.data import prepare
from finetune.errors import ArtifactError, DataError
from finetune.ledger import intervals, ledger
from finetune.ledger.advice import advice
from finetune.ledger.verb import MOST_TOKENS
from finetune.merge import merge
from finetune.model import Score, load_adapter, load_base, score
from finetune.plan import read_plan
from finetune.recipe import load
from finetune.run import Run, manifest


def silent(*_: Any) -> None:
    """Takes what would be told to a user."""


@pytest.mark.parametrize("kind", ["pico_base", "pico_moe_base"])
def test_losses_are_those_that_training_measures(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """In float32 both; 4 bits are restored by each in its own way."""
    base: Path = request.getfixturevalue(kind)
    run = made_run(base, tmp_path)
    merge(run, "bf16", None, silent, silent)
    told = ledger(run, MOST_TOKENS, silent)
    by_name = {step["name"]: step for step in told["steps"]}
    assert by_name.keys() == {"base", "adapter", "merged", "gguf"}
    held_out = prepare(load(run.recipe), base).held_out
    tuned = score(load_adapter(load_base(base, read_plan(run.plan)), run.adapter), held_out)
    assert by_name["adapter"]["loss"]["value"] == pytest.approx(tuned.loss, rel=1e-5)
    assert by_name["merged"]["loss"]["value"] == pytest.approx(tuned.loss, rel=0.01), "NF4 lies between"
    assert by_name["base"]["loss"]["value"] != pytest.approx(tuned.loss, rel=1e-4)
    assert (by_name["base"]["weights"], by_name["adapter"]["weights"]) == ("bf16", "nf4")
    assert by_name["gguf"]["not_measured"] == f"finetune export {run.path}"
    assert told == json.loads(run.ledger.read_text())
    entry = manifest.read(run.manifest)["stages"][-1]
    assert (entry["stage"], entry["outputs"].keys()) == ("ledger", {"ledger.json", "ledger.png"})


def test_tokens_bound_what_is_scored_and_one_example_is_scored_always(pico_base: Path, tmp_path: Path) -> None:
    run = made_run(pico_base, tmp_path)
    first = prepare(load(run.recipe), pico_base).held_out[0]
    told = ledger(run, 1, silent)
    assert told["examples"] == {"scored": 1, "of": 2, "tokens": len(first), "learnt": sum(first.learnt[1:])}
    assert told["advice"] == ["1 held-out examples: no share of the tuning is told of fewer than 5"]


def _nothing_held_out(run: Run) -> None:
    pass


def _other_rows(run: Run) -> None:
    rows = run.path.parents[1] / "held_out.jsonl"
    rows.write_text(rows.read_text().replace("closed", "open"))


def _damaged_merge(run: Run) -> None:
    merge(run, "bf16", None, silent, silent)
    with (run.merged / "config.json").open("a") as file:
        file.write(" ")


@pytest.mark.parametrize(
    ("harm", "wishes", "error", "told"),
    [
        (_nothing_held_out, ("data.eval=0",), DataError, "held nothing out"),
        (_other_rows, (), DataError, "rows are not those of the training"),
        (_damaged_merge, (), ArtifactError, "config.json is not the one that was proven"),
    ],
    ids=["nothing held out", "other rows", "a damaged merge"],
)
def test_what_cannot_be_compared_is_refused(
    pico_base: Path, tmp_path: Path, harm: Any, wishes: tuple[str, ...], error: type[Exception], told: str
) -> None:
    run = made_run(pico_base, tmp_path, *wishes)
    harm(run)
    with pytest.raises(error, match=told):
        ledger(run, MOST_TOKENS, silent)
    assert not run.ledger.exists()


def test_a_gguf_is_scored_as_the_merged_model(pico_base: Path, tmp_path: Path) -> None:
    if engine.answering() is None:
        pytest.skip("neither xllamacpp nor llama-cpp-python is installed")
    from finetune.export import export
    from finetune.export.converter import find

    run = made_run(pico_base, tmp_path)
    converter = find(None, Path(__file__).parents[2] / ".cache").folder
    export(run, ("bf16",), None, converter, tmp_path / "cache", silent, silent)
    steps = {step["name"]: step for step in ledger(run, MOST_TOKENS, silent)["steps"]}
    assert steps["gguf"]["weights"] == "bf16"
    # llama.cpp rounds activations to bfloat16
    assert steps["gguf"]["loss"]["value"] == pytest.approx(steps["merged"]["loss"]["value"], rel=1e-3)


def scores(*losses: float) -> Score:
    return Score(losses, (10,) * len(losses))


def test_a_share_kept_is_that_of_the_difference_and_its_interval_holds_it() -> None:
    base, tuned = scores(*([20.0, 30.0] * 10)), scores(*([10.0, 20.0] * 10))
    half = intervals.kept(scores(*([15.0, 25.0] * 10)), base, tuned)
    assert half is not None
    assert asdict(half) == pytest.approx({"value": 0.5, "low": 0.5, "high": 0.5}), "paired: each example keeps half"
    found = intervals.kept(scores(*([16.0, 24.0, 14.0, 26.0] * 5)), base, tuned)  # each a tenth off the half
    assert found is not None
    assert found.low < found.value < found.high
    assert found.high - found.low == pytest.approx(4 * 0.1 / 20**0.5, rel=0.1), "four standard errors"
    assert intervals.loss(base).value == 2.5


def test_no_share_is_told_of_a_tuning_that_may_have_done_nothing() -> None:
    base, tuned = scores(*([20.0] * 20)), scores(*([19.0, 21.0] * 10))
    assert intervals.kept(tuned, base, tuned) is None


def line(name: str, weights: str, kept: float | None) -> dict[str, Any]:
    share = None if kept is None else asdict(intervals.Interval(kept, kept, kept))
    away = asdict(intervals.Interval(0.1, -0.2, 0.4))
    return {"name": name, "weights": weights, "kept": share, "from_trained": away}


BEGUN = [line("base", "bf16", 0.0), line("adapter", "nf4", 1.0)]


@pytest.mark.parametrize(
    ("later", "told"),
    [
        ([line("merged", "bf16", 0.99), line("gguf", "q4_k_m", 0.95)], []),
        ([line("gguf", "q4_k_m", 0.7), line("gguf", "q8_0", 0.97)], ["take q8_0, which keeps 97%"]),
        ([line("gguf", "q4_k_m", 0.7)], ["finetune export r --gguf q5_k_m"]),
        ([line("gguf", "q8_0", 0.7), line("gguf", "bf16", 0.7)], ["no larger file", "no larger file"]),
        ([line("merged", "bf16", 0.7)], ["finetune merge r --onto dequantised --out r/merged-dequantised"]),
        ([line("merged", "bf16", 0.7), line("merged onto dequantised", "bf16", 1.0)], ["serve the adapter"]),
    ],
)
def test_a_step_that_loses_too_much_is_named_with_what_keeps_more(later: list[dict[str, Any]], told: list[str]) -> None:
    found = advice(Run(Path("r")), BEGUN + later, 100)
    assert len(found) == len(told)
    assert all(part in text for part, text in zip(told, found, strict=True))


def test_where_the_effect_is_not_clear_that_is_all_that_is_said() -> None:
    unclear = [line("base", "bf16", None), line("adapter", "nf4", None), line("gguf", "q4_k_m", None)]
    assert advice(Run(Path("r")), unclear, 100) == [
        "what the tuning did to the held-out loss is not clear (-0.2000 to 0.4000 nats): no share of it is told"
    ]
