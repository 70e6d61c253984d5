"""What a merge refuses, and how: wrong inputs before a byte is written, wrong results before they get their name."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial import in_process
from trial.made_run import begun_run, finish, made_run

from finetune.errors import ArtifactError, DoesNotFit, FinetuneError, ProofFailed, RunLocked
from finetune.merge import merge
from finetune.merge.comparing import compare_bytes
from finetune.merge.order import Order, take
from finetune.merge.probing import probe
from finetune.merge.prompts import Prompts
from finetune.merge.proof import claims_of, compare_answers
from finetune.merge.rounding import unit_in_the_last_place
from finetune.merge.weights import Weights
from finetune.run import Run, locked, manifest

DISK_MEGABYTES = 3


def merged(run: Run, out: Path | None = None, progress: Callable[..., None] = lambda *told: None) -> dict[str, object]:
    return merge(run, "bf16", out, lambda line: None, progress)


@pytest.fixture
def run(pico_base: Path, tmp_path: Path) -> Run:
    base = tmp_path / "base"
    shutil.copytree(pico_base, base)
    return made_run(base, tmp_path, "method=lora")


@pytest.fixture(scope="module")
def whole(pico_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Order:
    run = made_run(pico_base, tmp_path_factory.mktemp("whole"), "method=lora")
    merged(run)
    return take(run, "bf16")


def refusal(run: Run, kind: type[FinetuneError], out: Path | None = None) -> str:
    before = sorted(run.path.rglob("*"))
    with pytest.raises(kind) as told:
        merged(run, out)
    assert sorted(run.path.rglob("*")) == sorted({*before, run.lock})  # nothing was begun
    return str(told.value)


def test_an_unfinished_run_has_no_adapter(pico_base: Path, tmp_path: Path) -> None:
    run = begun_run(pico_base, tmp_path)
    told = refusal(run, ArtifactError)
    assert told.startswith("error: the run has no adapter\n")
    assert f"finetune train --resume {run.path}" in told


def test_a_base_that_is_gone_changed_or_cut_short_is_refused_by_name(run: Run, tmp_path: Path) -> None:
    base, shard = tmp_path / "base", tmp_path / "base" / "model-00002-of-00004.safetensors"
    good = shard.read_bytes()
    shard.write_bytes(good[:-100])
    told = refusal(run, ArtifactError)
    assert told.startswith("error: a shard of the base is cut short\n")
    assert str(shard) in told
    shard.write_bytes(good[:-100] + bytes(100))
    file = shard.with_name("model-00001-of-00004.safetensors")
    tensors = {name: tensor + 1 for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    assert refusal(run, ArtifactError).startswith("error: the base is not the one that was trained with\n")
    base.rename(tmp_path / "elsewhere")
    assert refusal(run, ArtifactError).startswith("error: there is no such base\n")


def test_another_template_or_adapter_than_that_of_training_is_refused(run: Run, tmp_path: Path) -> None:
    template = tmp_path / "base" / "chat_template.jinja"
    good = template.read_text()
    template.write_text(good + " ")
    assert "chat template is not the one that was trained with" in refusal(run, ArtifactError)
    template.write_text(good)
    config = run.adapter / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": ', '"lora_alpha": 1'))
    assert "adapter/adapter_config.json is not the one that was proven" in refusal(run, ArtifactError)


def test_an_adapter_of_another_base_finds_no_place(run: Run, tmp_path: Path) -> None:
    file = run.adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    save_file({**tensors, name.replace("layers.0", "layers.77"): tensors[name].clone()}, file)
    told = manifest.read(run.manifest)
    run.manifest.write_text(json.dumps({**told, "stages": []}))
    assert "have no place there, first base_model.model.model.layers.77." in refusal(finish(run), ArtifactError)


def test_nothing_is_dequantised_that_was_never_quantised(run: Run) -> None:
    with pytest.raises(ArtifactError, match="nothing was quantised in this run"):
        merge(run, "dequantised", None, lambda line: None, lambda *told: None)


def test_a_place_that_is_taken_is_left_as_it_is(run: Run, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine").write_text("mine")
    told = refusal(run, ArtifactError, taken)
    assert told.startswith("error: there is something in this place\n")
    assert "fix   name another folder by --out" in told, "what is somebody's is not to be moved"
    assert [file.name for file in taken.iterdir()] == ["mine"]


def test_a_finished_merge_is_verified_and_not_made_again(run: Run) -> None:
    entry = merged(run)
    before = {file.name: file.stat().st_mtime_ns for file in run.merged.iterdir()}
    assert merged(run) == entry
    assert {file.name: file.stat().st_mtime_ns for file in run.merged.iterdir()} == before
    assert [stage["stage"] for stage in manifest.read(run.manifest)["stages"]] == ["train", "merge"]
    (run.merged / "config.json").write_text("{}")
    told = refusal(run, ArtifactError)
    assert told.startswith("error: there is something in this place\n")
    assert f"fix   mv {run.merged} {run.merged}-before" in told


@pytest.mark.parametrize("out", ["", ".", "/", ".."])
def test_a_folder_without_a_name_of_its_own_is_refused(run: Run, out: str) -> None:
    with pytest.raises(ArtifactError, match="this names no new folder"):
        merge(run, "bf16", Path(out), lambda line: None, lambda *told: None)


def test_two_merges_of_a_run_do_not_work_at_once(run: Run) -> None:
    with locked(run), pytest.raises(RunLocked):
        merged(run)


def test_a_merge_that_another_run_began_in_the_same_place_is_left_alone(
    run: Run, pico_base: Path, tmp_path: Path
) -> None:
    other, out = made_run(pico_base, tmp_path / "other", "method=lora", seed=1), tmp_path / "out"

    def stop(*told: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merged(other, out, stop)
    told = refusal(run, ArtifactError, out)
    assert told.startswith("error: another merge was begun here\n")
    assert f"rm -r {tmp_path / 'out.partial'}" in told


def test_the_command_tells_errors_by_their_exit_code_and_the_folder_on_stdout(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_process.command("merge", str(run.path)) == 0
    assert capsys.readouterr().out == f"{run.merged}\n"
    assert in_process.command("show", str(run.path)) == 0
    assert "mean square error of the worst tensor" in capsys.readouterr().out
    assert in_process.command("merge", str(run.path / "nothing")) == ArtifactError.exit_code


def test_a_disk_that_is_full_or_becomes_so_is_told_and_the_merge_goes_on_later(run: Run, small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(2_500_000))
    with pytest.raises(DoesNotFit, match="too little room for the merged model"):
        merged(run, small_disk / "out")
    assert os.listdir(small_disk) == ["filler"]
    filler.unlink()
    finished = []

    def fill(what: str, done: int, whole: int) -> None:
        journal = json.loads((small_disk / "out.partial" / "journal.json").read_text())
        finished[:] = journal["files"]
        if finished and not filler.exists():
            filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 50_000))

    with pytest.raises(DoesNotFit, match="the disk is full"):
        merged(run, small_disk / "out", fill)
    assert finished
    assert not (small_disk / "out").exists()
    filler.unlink()
    entry = merged(run, small_disk / "out")
    assert entry["stage"] == "merge"


def spoilt(order: Order, folder: Path, change: Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor]) -> Weights:
    """Copies a merged folder with other tensors: `change` gets a name, the merged tensor and the base's."""
    shutil.copytree(order.run.merged, folder)
    for file in folder.glob("*.safetensors"):
        base = load_file(order.base.folder / file.name)
        tensors = {name: change(name, tensor, base[name]) for name, tensor in load_file(file).items()}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata={"format": "pt"})
    return Weights(folder)


ONE = "model.language_model.layers.2.mlp.up_proj.weight"

WRONG_WEIGHTS: dict[str, Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "one adapter left out": lambda name, made, base: base if name == ONE else made,
    "a scale that is 5 % too large": lambda name, made, base: (
        base + 1.05 * (made.float() - base) if name == ONE else made
    ).to(made.dtype),
    "rounded towards zero": lambda name, made, base: (
        (made.view(torch.int16) - 1).view(torch.bfloat16) if name == ONE else made
    ),
    "one wrong weight": lambda name, made, base: made.index_fill(1, torch.tensor([5]), 0.05) if name == ONE else made,
}


@pytest.mark.parametrize("wrong", WRONG_WEIGHTS)
def test_a_single_tensor_that_is_not_base_and_adapter_fails_the_proof(wrong: str, whole: Order, tmp_path: Path) -> None:
    found = spoilt(whole, tmp_path / "spoilt", WRONG_WEIGHTS[wrong])
    with pytest.raises(ProofFailed, match=f"{ONE} is not base and adapter"):
        probe(whole.base, found, whole.changes, whole.touched, lambda size: None)


def test_a_tensor_that_nobody_should_touch_fails_the_proof_if_one_bit_differs(whole: Order, tmp_path: Path) -> None:
    made, shard = tmp_path / "made", "model-00004-of-00004.safetensors"
    shutil.copytree(whole.run.merged, made)
    merge_entry = manifest.read(whole.run.manifest)["stages"][-1]
    hashes = {name.removeprefix("merged/"): digest for name, digest in merge_entry["outputs"].items()}
    same = compare_bytes(whole.base.folder, made, whole.touched, hashes, lambda size: None)
    assert same == len(whole.base.tensors) - len(whole.touched)
    data = bytearray((made / shard).read_bytes())
    data[-1] ^= 1
    (made / shard).write_bytes(data)
    with pytest.raises(ProofFailed, match="what was merged is not the base with what was trained in it"):
        compare_bytes(whole.base.folder, made, whole.touched, hashes, lambda size: None)


WRONG_MODELS: dict[str, Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "the base": lambda name, made, base: base,
    "twice the scale": lambda name, made, base: (base + 2 * (made.float() - base)).to(made.dtype),
    "the other sign": lambda name, made, base: (2 * base.float() - made).to(made.dtype),
    "norms by their other convention": lambda name, made, base: made + 1 if name.endswith("layernorm.weight") else made,
}


@pytest.mark.parametrize("wrong", WRONG_MODELS)
def test_a_model_that_answers_otherwise_fails_the_proof(wrong: str, whole: Order, tmp_path: Path) -> None:
    found = spoilt(whole, tmp_path / "spoilt", WRONG_MODELS[wrong])
    prompts = Prompts(list(range(3, 90)), "87 tokens")
    proven = compare_answers(whole.tuned, whole.base, found, whole.plan, prompts, lambda line: None)
    with pytest.raises(ProofFailed, match="does not answer as base and adapter do"):
        claims_of(proven, prompts)
    config = json.loads((found.folder / "config.json").read_text())
    assert config == json.loads((whole.base.folder / "config.json").read_text())


def test_what_fails_its_proof_keeps_its_partial_name(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune.merge import verb

    def wrong(order: Order, tensor: object) -> Iterator[torch.Tensor]:
        whole = replace(order, touched=dict.fromkeys(order.touched, False))
        return rows(whole, tensor)  # type: ignore[arg-type]

    rows = verb._rows
    monkeypatch.setattr(verb, "_rows", wrong)
    with pytest.raises(ProofFailed):
        merged(run)
    assert not run.merged.exists()
    assert (run.path / "merged.partial" / "merged").is_dir()
    assert [stage["stage"] for stage in manifest.read(run.manifest)["stages"]] == ["train"]


def test_a_unit_in_the_last_place_is_the_step_to_the_next_bfloat16() -> None:
    weights = torch.tensor([1.0, 0.02, -0.3, 1e-30, 255.0]).bfloat16()
    following = (weights.view(torch.int16) + 1).view(torch.bfloat16)
    expected = (following.float() - weights.float()).abs()
    assert torch.equal(unit_in_the_last_place(weights.float(), "BF16"), expected)
    assert unit_in_the_last_place(torch.zeros(2), "BF16").tolist() == [0, 0]
