"""A run of method full goes the whole road: its weights take the base's places, and what is made of them is right."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial.answering import check_answers
from trial.made_run import begun_run, finish, made_run

from finetune.card import card_of
from finetune.data import prepare
from finetune.errors import ArtifactError, FinetuneError, ProofFailed
from finetune.export import export, export_beside, export_for_vllm
from finetune.export.converter import find
from finetune.ledger import ledger
from finetune.ledger.verb import MOST_TOKENS
from finetune.merge import Mix, combine, merge
from finetune.merge.order import Order, take
from finetune.merge.prompts import Prompts
from finetune.merge.proof import claims_of, compare_answers
from finetune.merge.trained import Trained, compare_trained
from finetune.merge.weights import Weights
from finetune.model import differing_weights, load_base, save_weights, score
from finetune.plan import read_plan
from finetune.recipe import load
from finetune.run import Run, manifest
from finetune.verify import verify

BASES = ("pico_base", "pico_tied_base", "pico_moe_base")

FULL = ("method=full", "lora.dropout=0")

PREFIX = "model.language_model."

Tensors = dict[str, torch.Tensor]


def silent(*_: Any) -> None:
    """Takes what would be told to a user."""


def tensors_of(folder: Path) -> Tensors:
    return {n: t for file in sorted(folder.glob("*.safetensors")) for n, t in load_file(file).items()}


@pytest.fixture(scope="module", params=BASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    base: Path = request.getfixturevalue(request.param)
    run = made_run(base, tmp_path_factory.mktemp("full"), *FULL)
    merge(run, "bf16", None, silent, silent)
    return base, run


@pytest.fixture
def run(pico_base: Path, tmp_path: Path) -> Run:
    return made_run(pico_base, tmp_path, *FULL)


def text_of(tensors: Tensors) -> Tensors:
    return {name: t for name, t in tensors.items() if name.startswith((PREFIX, "lm_head."))}


def test_every_trained_tensor_is_the_trained_one_rounded_and_all_else_the_base_s(case: tuple[Path, Run]) -> None:
    base, run = case
    trained, before, after = tensors_of(run.weights), tensors_of(base), tensors_of(run.merged)
    assert trained.keys() == text_of(before).keys()
    assert before.keys() == after.keys()
    assert {t.dtype for t in trained.values()} == {torch.float32}
    for name, tensor in after.items():
        wanted = trained[name].to(torch.bfloat16) if name in trained else before[name]
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, wanted), name
    for file in base.glob("*.safetensors"):
        whole, made = file.read_bytes(), (run.merged / file.name).read_bytes()
        begin = 8 + int.from_bytes(whole[:8], "little")
        assert (whole[:begin], len(whole)) == (made[:begin], len(made))
    for name in {file.name for file in base.glob("*.json*")} - {"demo_base.json"}:
        assert (run.merged / name).read_bytes() == (base / name).read_bytes()


def damage(file: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("base", BASES)
def test_what_was_written_is_compared_bit_for_bit_with_what_was_trained(
    base: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """As training does at its end."""
    folder: Path = request.getfixturevalue(base)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    save_weights(model, tmp_path, folder)
    file, norm = tmp_path / "model.safetensors", "norm.weight"
    assert differing_weights(model, tmp_path) == []
    damage(file, lambda tensors: tensors[PREFIX + norm].view(torch.int32)[0].bitwise_xor_(1))
    assert differing_weights(model, tmp_path) == [f"model.{norm}"]
    damage(file, lambda tensors: tensors.pop(PREFIX + norm))
    assert differing_weights(model, tmp_path) == [f"model.{norm}"]
    damage(file, lambda tensors: tensors.update(other=torch.zeros(1)))
    assert differing_weights(model, tmp_path) == [f"model.{norm}", "other"]
    with torch.no_grad():
        model.model.embed_tokens.weight[0, 0] = torch.nan
    save_weights(model, tmp_path, folder)
    assert "model.embed_tokens.weight" in differing_weights(model, tmp_path)


def test_plain_transformers_loads_it_under_both_classes_and_answers_as_the_run(case: tuple[Path, Run]) -> None:
    base, run = case
    check_answers(run.merged, base, AutoModelForCausalLM.from_pretrained(run.weights, dtype=torch.float32))


def test_the_manifest_names_the_weights_and_verify_finds_all_of_it_right(case: tuple[Path, Run]) -> None:
    base, run = case
    trained, entry = manifest.read(run.manifest)["stages"]
    told = {claim["claim"]: claim["measured"] for claim in entry["claims"] if claim["holds"]}
    assert trained["outputs"].items() <= entry["inputs"].items()
    assert len(told) == len(entry["claims"])
    num_trained, num_tensors = len(tensors_of(run.weights)), len(tensors_of(base))
    assert told["trained tensors, each number the trained one rounded once to the base's dtype"] == num_trained
    assert told["tensors that were not trained, the base's bit for bit"] == num_tensors - num_trained
    for path in (run.path, run.merged):
        assert [claim for claim in verify(path, base, Path("unused"), silent) if not claim["holds"]] == []


def test_losses_of_the_ledger_are_those_that_training_measures(case: tuple[Path, Run]) -> None:
    base, run = case
    run = Run(shutil.copytree(run.path, run.path.with_name("copy-0001")))
    steps = {step["name"]: step for step in ledger(run, MOST_TOKENS, silent)["steps"]}
    assert steps.keys() == {"base", "weights", "merged", "gguf"}
    examples, plan = prepare(load(run.recipe), base).held_out, read_plan(run.plan)
    for name, folder in (("base", base), ("weights", run.weights), ("merged", run.merged)):
        assert steps[name]["loss"]["value"] == pytest.approx(score(load_base(folder, plan), examples).loss, rel=1e-5)
    assert steps["weights"]["loss"]["value"] != pytest.approx(steps["base"]["loss"]["value"], rel=1e-3)


def test_an_interrupted_merge_goes_on_and_ends_the_same(case: tuple[Path, Run], tmp_path: Path) -> None:
    _, run = case
    seen = []

    def stop(what: str, done: int, whole: int) -> None:
        seen.append(done)
        if done > whole / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(run, "bf16", tmp_path / "merged", silent, stop)
    assert not (tmp_path / "merged").exists()
    told: list[str] = []
    merge(run, "bf16", tmp_path / "merged", told.append, silent)
    assert told[0].startswith("going on in")
    for file in run.merged.iterdir():
        assert (tmp_path / "merged" / file.name).read_bytes() == file.read_bytes()


def test_what_was_learnt_in_less_than_bfloat16_can_hold_is_told(pico_base: Path, tmp_path: Path) -> None:
    run, told = made_run(pico_base, tmp_path, *FULL, size=1e-5), list[str]()
    entry = merge(run, "bf16", None, told.append, silent)
    assert all(claim["holds"] for claim in entry["claims"])
    claims = {claim["claim"]: claim["measured"] for claim in entry["claims"]}
    assert claims["mean KL that rounding errors by chance make"] > 0
    assert any(f"bfloat16 can hold; {run.weights} holds all of it" in line for line in told)


def with_tensors(run: Run, change: Callable[[Tensors], Any]) -> Run:
    """Writes other weights into the run, as if training had left them."""
    file = run.weights / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    told = manifest.read(run.manifest)
    run.manifest.write_text(json.dumps({**told, "stages": []}))
    return finish(run)


NORM = f"{PREFIX}layers.1.input_layernorm.weight"

HARMS: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "one is lacking": (lambda tensors: tensors.pop(NORM), "layers.1.input_layernorm.weight"),
    "one is of another model": (
        lambda tensors: tensors.update({NORM.replace("1.", "77."): tensors[NORM].clone()}),
        "layers.77.input_layernorm.weight",
    ),
    "one is of no text model": (
        lambda tensors: tensors.update({"mtp.norm.weight": tensors[NORM].clone()}),
        "1 of their tensors have no place in it, first mtp.norm.weight",
    ),
    "one is of another shape": (lambda tensors: tensors.update({NORM: torch.zeros(63)}), "it is (63,)"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_weights_that_are_not_those_of_the_base_are_refused_by_name(run: Run, harm: str) -> None:
    change, told = HARMS[harm]
    with pytest.raises(ArtifactError, match="the trained weights are not a model of this base") as refused:
        merge(with_tensors(run, change), "bf16", None, silent, silent)
    assert told in refused.value.problems[0].why
    assert "finetune train" in refused.value.problems[0].fix
    assert not run.merged.exists()


def test_a_damaged_file_of_weights_is_refused(run: Run) -> None:
    file = run.weights / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"weights/model\.safetensors is not the one that was proven"):
        merge(run, "bf16", None, silent, silent)


def test_an_unfinished_run_has_no_weights(pico_base: Path, tmp_path: Path) -> None:
    run = begun_run(pico_base, tmp_path, *FULL)
    with pytest.raises(ArtifactError, match="the run has no weights") as refused:
        merge(run, "bf16", None, silent, silent)
    assert refused.value.problems[0].fix == f"finetune train --resume {run.path}"


def test_a_folder_that_is_not_what_was_trained_fails_the_proof(case: tuple[Path, Run], tmp_path: Path) -> None:
    base, run = case
    order: Order = take(run, "bf16")
    assert isinstance(order.changes, Trained)
    merged, prompts = Weights(run.merged), Prompts(list(range(3, 90)), "87 tokens")
    compare_trained(order.base, merged, order.changes, order.touched, silent)
    claims_of(compare_answers(order.tuned, order.base, merged, order.plan, prompts, silent), prompts)
    folder = Path(shutil.copytree(run.merged, tmp_path / "merged"))
    (shard,) = [file for file in folder.glob("*.safetensors") if NORM in load_file(file)]
    tensors = load_file(shard)
    tensors[NORM].view(torch.int16)[7] += 1  # one number, by one unit in the last place
    save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(ProofFailed, match=f"{NORM} is not what was trained"):
        compare_trained(order.base, Weights(folder), order.changes, order.touched, silent)
    proven = compare_answers(order.tuned, order.base, Weights(base), order.plan, prompts, silent)
    with pytest.raises(ProofFailed, match="does not answer as the trained weights do"):
        claims_of(proven, prompts)


def test_rows_of_experts_that_are_stored_one_by_one_are_those_of_fused_ones(
    pico_moe_base: Path, tmp_path: Path
) -> None:
    """transformers may write them so."""
    run = made_run(pico_moe_base, tmp_path, *FULL)
    fused, name = Weights(run.weights), "model.layers.0.mlp.experts.gate_up_proj"
    whole = torch.cat([rows.clone() for _, rows in fused.rows(name)])

    def apart(tensors: Tensors) -> None:
        for expert, halves in enumerate(tensors.pop(f"{PREFIX}layers.0.mlp.experts.gate_up_proj")):
            for leaf, half in zip(("gate", "up"), halves.chunk(2), strict=True):
                tensors[f"{PREFIX}layers.0.mlp.experts.{expert}.{leaf}_proj.weight"] = half.clone()

    alone = Weights(with_tensors(run, apart).weights)
    assert len(alone.stored[name]) == 16
    for first, last in ((0, 1), (63, 65), (0, len(whole)), (100, 700)):
        assert torch.equal(alone.part(name, first, last), whole[first:last])


def test_what_needs_an_adapter_is_refused_and_what_its_fix_says_is_not(run: Run, tmp_path: Path) -> None:
    other = made_run(Path(load(run.recipe).base), tmp_path / "other", "method=lora")
    asked: dict[str, Callable[[], Any]] = {
        f"finetune merge {run.path}": lambda: combine(run, Mix(), None, silent),
        f"finetune merge {run.path}   # alone, with nothing else": lambda: merge(
            run, "bf16", None, silent, silent, Mix(others=((other.path, 1.0),))
        ),
        f"finetune export {run.path} --gguf q8_0   # the merged model holds it": lambda: export_beside(
            run, ["adapter"], None, None, tmp_path, silent
        ),
        f"finetune merge {run.path}   # vLLM serves the merged model": lambda: export_for_vllm(run, None, silent),
        "--artifact merged": lambda: card_of(run, "adapter"),
    }
    for fix, ask in asked.items():
        with pytest.raises(FinetuneError, match="this run has no adapter") as refused:
            ask()
        assert refused.value.problems[0].fix == fix
    with pytest.raises(ArtifactError, match="this run has no adapter"):
        merge(other, "bf16", None, silent, silent, Mix(others=((run.path, 1.0),)))
    assert manifest.read(run.manifest)["stages"][-1]["stage"] == "train"
    assert "base_model_relation" not in card_of(run, "merged"), "its base is a folder"


def test_it_becomes_gguf_files_that_are_read_back(pico_tied_base: Path, tmp_path: Path) -> None:
    """A gain so near to 0 that 1 + w, which a GGUF holds, loses its last bits is the merged model's all the same."""
    run = made_run(pico_tied_base, tmp_path, *FULL)
    with_tensors(run, lambda tensors: tensors[NORM].fill_(3.621e-6))
    converter = find(None, Path(__file__).parents[2] / ".cache")
    entry = export(run, ("bf16", "q8_0"), None, converter.folder, tmp_path, silent, silent)
    assert all(claim["holds"] for claim in entry["claims"])
    assert sum("reads back bit for bit" in claim["claim"] for claim in entry["claims"]) == 1
    assert sum("chat template read back" in claim["claim"] for claim in entry["claims"]) == 2
    assert [stage["stage"] for stage in manifest.read(run.manifest)["stages"]] == ["train", "merge", "export"]
    assert {file.name for file in (run.path / "gguf").glob("*.gguf")} == {
        f"{run.name}-BF16.gguf",
        f"{run.name}-Q8_0.gguf",
    }
