"""Whole trainings under levers: the exact ones change no bit, and the rehearsal before them leaves no trace."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial import in_process
from trial.comparison import differences
from trial.small_run import write_recipe

from finetune.model import HostEmbedding, QuantisedHead
from finetune.run import Run

EXACT = ("memory.embeddings=host", "memory.checkpoints=host", "memory.recompute=halves")
ROUNDED = ("memory.head=nf4", "memory.optimizer=adamw_8bit")


def train(base: Path, folder: Path, *wishes: str, **more: Any) -> tuple[Run, in_process.Trained]:
    recipe = write_recipe(folder, base, num_rows=16, long_row=False)
    run, dataset = in_process.begin(recipe, folder / "runs", "train.max_steps=3", *wishes)
    return run, in_process.train(run, dataset, **more)


def adapter(run: Run) -> bytes:
    return (run.adapter / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def plain(pico_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(pico_base, tmp_path_factory.mktemp("plain"))[0]


@pytest.mark.parametrize("wishes", [*[(word,) for word in EXACT], EXACT], ids=lambda w: " ".join(w))
def test_an_exact_lever_changes_no_bit_of_the_adapter(
    plain: Run, pico_base: Path, tmp_path: Path, wishes: tuple[str, ...]
) -> None:
    run, trained = train(pico_base, tmp_path, *wishes)
    choices = json.loads(run.plan.read_text())["choices"]
    for word in wishes:
        key, _, position = word.removeprefix("memory.").partition("=")
        assert choices[key] == position
    assert trained.trainer is not None
    embedding = trained.trainer.model.get_input_embeddings()
    assert isinstance(embedding, HostEmbedding) == ("memory.embeddings=host" in wishes)
    assert adapter(run) == adapter(plain)


def test_a_rounded_head_and_8_bit_states_are_what_trains(pico_base: Path, tmp_path: Path) -> None:
    run, trained = train(pico_base, tmp_path, *EXACT, *ROUNDED)
    assert trained.trainer is not None
    assert isinstance(trained.trainer.model.get_base_model().lm_head, QuantisedHead)
    states = [s for s in trained.trainer.optimizer.state.values() if s["state1"].dtype == torch.uint8]
    sizes = {tensor.numel() for tensor in load_file(run.adapter / "adapter_model.safetensors").values()}
    assert bool(states) == any(size >= 4096 for size in sizes), "smaller ones stay in float32"
    assert all(claim["holds"] for claim in trained.entry["claims"])


def test_a_run_under_every_lever_resumes_bit_for_bit(pico_base: Path, tmp_path: Path) -> None:
    from finetune.errors import Interrupted

    whole, _ = train(pico_base, tmp_path / "whole", *EXACT, *ROUNDED)
    recipe = write_recipe(tmp_path / "cut", pico_base, num_rows=16, long_row=False)
    cut, dataset = in_process.begin(recipe, tmp_path / "cut" / "runs", "train.max_steps=3", *EXACT, *ROUNDED)
    with pytest.raises(Interrupted):
        in_process.train(cut, dataset, stop_after=1)
    in_process.train(cut)
    assert differences(cut.path, whole.path) == []


def test_the_rehearsal_is_of_the_longest_rows_and_leaves_no_trace(plain: Run, pico_base: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def watch(trainer: Any) -> None:
        losses = trainer.losses

        def counted(model: Any, inputs: dict[str, Any]) -> Any:
            seen.append(tuple(inputs["input_ids"].shape))
            return losses(model, inputs)

        trainer.losses = counted

    run, trained = train(pico_base, tmp_path, touch=watch)
    assert trained.trainer is not None
    lengths = sorted(map(len, trained.trainer.examples), reverse=True)
    assert seen[0] == (2, lengths[0]) == (2, json.loads(run.plan.read_text())["length"])
    assert any("rehearsed: the longest micro-batch" in line for line in trained.said)
    assert adapter(run) == adapter(plain)
    without = tmp_path / "without"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finetune.train.verb.rehearse", lambda trainer, stop, say: None)
        patch.setattr("finetune.train.verb.memory_claims", lambda trainer, rehearsal: [])
        other, _ = train(pico_base, without)
    assert adapter(other) == adapter(plain)


def test_the_memory_that_was_planned_and_taken_stands_in_the_manifest(plain: Run) -> None:
    (stage,) = json.loads(plain.manifest.read_text())["stages"]
    (told,) = [claim for claim in stage["claims"] if claim["claim"].startswith("memory")]
    assert told["measured"] > 100 * 2**20
    planned = json.loads(plain.plan.read_text())
    assert f"{planned['host_bytes']:,}" in told["claim"]
    assert planned["host_bytes"] >= planned["peak_bytes"] > planned["static_bytes"]
