"""Examples laid end to end learn what they learn alone: the same logits, losses, gradients and adapters."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial import in_process
from trial.comparison import differences
from trial.small_run import write_recipe

from finetune.data import Example
from finetune.errors import Interrupted, TrainingStopped
from finetune.lens import step_of
from finetune.model import causal_of
from finetune.model.apart import CONVOLUTION, RULE
from finetune.recipe import load as run_recipe
from finetune.run import Run
from finetune.train.batches import FILLER, StepBatches, borders_in, collate, micro_batches

WISHES = (
    "method=lora",
    "data.eval=0.0",
    "lora.dropout=0.0",
    "train.max_steps=2",
    "train.schedule=constant",
    "train.warmup=0.0",
)
PACKED = ("data.packing=true", "data.max_length=256", "memory.micro_batch=null")
ALONE = ("data.max_length=256", "memory.micro_batch=2")
MODULES = {
    name: importlib.import_module(f"transformers.models.{name}.modeling_{name}") for name in ("qwen3_5", "qwen3_5_moe")
}


@pytest.fixture(scope="module", autouse=True)
def upstream() -> Iterator[None]:
    """Puts transformers' functions back, so that the tests after these find them as they were."""
    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES.values():
            for part in (CONVOLUTION, RULE):
                patch.setattr(module, part, getattr(module, part))
        yield


@dataclass(frozen=True)
class Pair:
    """The same training, packed and padded."""

    packed: Run
    padded: Run
    trained: in_process.Trained
    """The packed one."""


@pytest.fixture(scope="module", params=["pico_base", "pico_moe_base"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("packing")
    recipe = write_recipe(folder, request.getfixturevalue(request.param), num_rows=8, long_row=False)
    runs = {}
    for name, words in (("padded", ALONE), ("packed", PACKED)):
        run, dataset = in_process.begin(recipe, folder / name, *WISHES, *words)
        runs[name] = run, in_process.train(run, dataset)
    return Pair(runs["packed"][0], runs["padded"][0], runs["packed"][1])


def losses(run: Run) -> list[float]:
    return [r["loss"] for line in run.metrics.read_text().splitlines() if "loss" in (r := json.loads(line))]


def test_a_packed_training_is_the_padded_one_up_to_rounding(pair: Pair) -> None:
    assert losses(pair.packed) == pytest.approx(losses(pair.padded), rel=1e-6)
    one, two = (load_file(run.adapter / "adapter_model.safetensors") for run in (pair.packed, pair.padded))
    assert one.keys() == two.keys()
    # AdamW divides by the root of a mean of squares: a gradient of nearly nothing moves as far as any other
    assert max(((one[name] - two[name]).norm() / two[name].norm()).item() for name in two) < 2e-3


def test_the_run_tries_its_own_examples_and_claims_the_distance(pair: Pair) -> None:
    claims = [claim for claim in pair.trained.entry["claims"] if claim["claim"].startswith("packing")]
    assert [claim["claim"].split(" of ")[1] for claim in claims] == ["the logits", "the gradient"]
    assert all(claim["holds"] and claim["measured"] < 2e-5 and claim["tolerance"] == 1e-4 for claim in claims)
    assert any("packed and alone differ by" in line for line in pair.trained.said)


def test_each_parameter_gets_the_gradient_that_the_examples_alone_add_up_to(pair: Pair) -> None:
    trainer = pair.trained.trainer
    trainer.model.eval()
    rows = [0, 1, 2]
    packed = gradients(trainer, micro_batches(taken(trainer, rows, pack=256)))
    alone = gradients(trainer, (taken(trainer, [row]) for row in rows))
    assert packed.keys() == alone.keys()
    assert max(((packed[name] - alone[name]).norm() / alone[name].norm()).item() for name in alone) < 1e-4


def test_positions_alone_would_leak(pair: Pair) -> None:
    """What transformers does with a pack that names no borders: attention keeps apart, Gated DeltaNet does not."""
    trainer = pair.trained.trainer
    causal = causal_of(trainer.model.eval())
    (batch,) = micro_batches(taken(trainer, [0, 1], pack=256))
    ids, first = batch["input_ids"], len(trainer.examples[batch["index"][0]])
    with torch.no_grad():
        alone = causal(input_ids=ids[:, first:]).logits
        kept = causal(input_ids=ids, **borders_in(batch)).logits[:, first:]
        leaked = causal(input_ids=ids, position_ids=batch["position_ids"], use_cache=False).logits[:, first:]
    assert (kept - alone).abs().max() < 1e-4
    assert (leaked - alone).abs().max() > 0.05


@pytest.mark.parametrize("part", [CONVOLUTION, RULE])
def test_a_part_that_ignores_borders_is_refused_before_the_first_step(
    pico_base: Path, tmp_path: Path, part: str
) -> None:
    module = MODULES["qwen3_5"]
    upstream = getattr(module, part).__wrapped__

    def leaks(*given: Any, **named: Any) -> Any:
        return upstream(
            *given, **{n: v for n, v in named.items() if n not in ("cu_seqlens", "cu_seq_lens_q", "seq_idx")}
        )

    recipe = write_recipe(tmp_path, pico_base, num_rows=4, long_row=False)
    run, dataset = in_process.begin(recipe, tmp_path / "runs", *WISHES, *PACKED)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(TrainingStopped) as told:
        in_process.train(run, dataset, touch=lambda trainer: patch.setattr(module, part, leaks))
    assert str(told.value).startswith("error: packed examples run into one another\n  where ")
    assert re.search(r"logits of [234] of them packed and alone differ by 0\.[1-9]", str(told.value))
    assert "fix   begin again with --set data.packing=false" in str(told.value)
    assert not list(run.checkpoints.glob("*"))


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize(("part", "borders"), [(CONVOLUTION, "seq_idx"), (RULE, "cu_seqlens")])
def test_transformers_still_refuses_borders_without_the_packages(
    pair: Pair, name: str, part: str, borders: str
) -> None:
    """The day on which this fails, finetune.model.apart may go."""
    with pytest.raises(ValueError, match="can't keep packed sequences apart without"):
        getattr(MODULES[name], part).__wrapped__(**{borders: torch.tensor([0, 1])})


def test_a_packed_run_that_was_stopped_ends_as_if_it_had_not_been(pico_base: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, pico_base, num_rows=8, long_row=False)
    wishes = ("method=lora", "data.eval=0.0", "train.batch_size=4", "train.epochs=2.0", *PACKED)
    in_process.train(*in_process.begin(recipe, tmp_path / "whole", *wishes))
    with pytest.raises(Interrupted):
        in_process.train(*in_process.begin(recipe, tmp_path / "stopped", *wishes), stop_after=1)
    stopped = Run(tmp_path / "stopped" / "small-0001")
    in_process.train(stopped)
    assert differences(stopped.path, tmp_path / "whole" / "small-0001") == []


@pytest.mark.parametrize("words", [PACKED, ALONE], ids=["packed", "padded"])
def test_what_the_lens_shows_of_a_step_is_what_the_trainer_gets(
    pico_base: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """In the second epoch too, and after a stop within it."""
    recipe = write_recipe(tmp_path, pico_base, num_rows=11, long_row=False)
    wishes = ("method=lora", "data.eval=0.0", "train.batch_size=4", "train.epochs=2.0", *words)
    run, dataset = in_process.begin(recipe, tmp_path / "runs", *wishes)
    seen: list[list[int]] = []

    def watch(trainer: Any) -> None:
        step = trainer.training_step

        def watched(model: Any, inputs: dict[str, torch.Tensor], *given: Any) -> torch.Tensor:
            seen.extend(batch["index"].tolist() for batch in micro_batches(inputs))
            return step(model, inputs, *given)

        trainer.training_step = watched

    with pytest.raises(Interrupted):
        in_process.train(run, dataset, stop_after=3, touch=watch)
    in_process.train(Run(run.path), touch=watch)
    steps = [step_of(dataset, run_recipe(run.recipe), number) for number in range(1, 7)]
    shown = [[shown.number - 1 for shown in pack] for step in steps for pack in step.packs]
    flat = [row for rows in seen for row in rows]
    assert flat == [row for rows in shown for row in rows]
    assert sorted(flat[:11]) == sorted(flat[11:]) == list(range(11))
    assert flat[:11] != flat[11:]
    if words is PACKED:
        assert seen == shown


def test_a_step_is_cut_into_packs_of_whole_examples() -> None:
    examples = [Example(list(range(10 * n, 10 * n + size)), [False] + [True] * (size - 1), "") for n, size in SIZES]
    whole = collate([{"index": n} for n, _ in SIZES], examples=examples, pad=0, pack=8)
    found = list(micro_batches(whole))
    assert [batch["index"].tolist() for batch in found] == [[3], [1, 0], [2]]
    assert found[1]["input_ids"].tolist() == [[10, 11, 12, 13, 14, 0, 1, 2]]
    assert found[1]["labels"].tolist() == [[-100, 11, 12, 13, 14, -100, 1, 2]]
    assert found[1]["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]
    assert found[1]["cu_seq_lens_q"].tolist() == [0, 5, 8]
    assert found[1]["seq_idx"].tolist() == [[0, 0, 0, 0, 0, 1, 1, 1]]
    assert borders_in(found[0]) == borders_in(found[2]) == {}, "alone, an example needs no mask"


SIZES = [(0, 3), (1, 5), (2, 4), (3, 8)]


def test_a_step_keeps_its_examples_and_its_like_lengths_lie_together() -> None:
    lengths = [5, 1, 4, 2, 3, 9, 7]
    alone = list(StepBatches(range(7), lengths, micro_batch=2, accumulation=2))
    assert alone == [[0, 2], [3, 1], [5, 6], [4]]
    two = StepBatches(range(7), lengths, micro_batch=1, accumulation=2, processes=2)
    assert list(two) == [[0], [2], [3], [1], [5], [6], [4], [len(lengths)]]
    assert len(two) == 8


def test_filler_is_padded_like_any_example_and_counts_nothing() -> None:
    example = Example([7, 8, 9], [False, True, True], "")
    batch = collate([{"index": 0}, {"index": FILLER}], examples=[example], pad=1)
    assert batch["input_ids"].tolist() == [[7, 8, 9], [1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, 8, 9], [-100, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 0]]


def taken(trainer: Any, rows: list[int], pack: int = 0) -> dict[str, torch.Tensor]:
    return collate([{"index": row} for row in rows], examples=trainer.examples, pad=0, pack=pack)


def gradients(trainer: Any, batches: Iterator[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    trainer.model.zero_grad(set_to_none=True)
    for batch in batches:
        trainer.losses(trainer.model, batch)[0].nll.sum().backward()
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
