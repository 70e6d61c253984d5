"""A merged model is the base with its adapter in it: tensor by tensor as PEFT merges, and all else the base's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial.answering import check_answers
from trial.made_run import made_run
from trial.small_run import write_recipe

from finetune.merge import merge
from finetune.merge.changes import Adapter
from finetune.merge.logits import Comparison
from finetune.merge.ondisk import model_on_disk, states
from finetune.merge.order import take
from finetune.merge.weights import Weights
from finetune.model import load_adapter, load_base
from finetune.model.experts import experts_of
from finetune.plan import read_plan
from finetune.recipe import load
from finetune.run import Run, manifest
from finetune.stopping import Stop
from finetune.train import begin, train

pytestmark = pytest.mark.filterwarnings(  # PEFT 0.21 looks for these keys among modules only, and applies them
    "ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning"
)

KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "lora": ("pico_base", ("method=lora",)),
    "qlora": ("pico_base", ()),
    "rslora": ("pico_base", ("method=lora", "lora.rslora=true", "lora.alpha=3")),
    "dora": ("pico_base", ("method=lora", "lora.dora=true")),
    "tied": ("pico_tied_base", ("method=lora", "lora.targets=[attention]")),
    "experts": ("pico_moe_base", ("method=lora",)),
    "expert rank": ("pico_moe_base", ("lora.expert_rank=3", "lora.rslora=true")),
    "router": ("pico_moe_base", ("method=lora", "lora.router=true", "lora.targets=[experts]")),
}
"""Kind of adapter -> base, and wishes."""

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    base_name, wishes = KINDS[request.param]
    base: Path = request.getfixturevalue(base_name)
    run = made_run(base, tmp_path_factory.mktemp("merge"), *wishes)
    merge(run, "bf16", None, lambda line: None, lambda *told: None)
    return base, run


def tensors_of(folder: Path) -> Tensors:
    return {n: t for file in sorted(folder.glob("*.safetensors")) for n, t in load_file(file).items()}


def units_apart(one: torch.Tensor, other: torch.Tensor) -> int:
    """Units in the last place between bfloat16 numbers: their bits, put in the order of the numbers."""

    def ordered(tensor: torch.Tensor) -> torch.Tensor:
        bits = tensor.to(torch.bfloat16).view(torch.int16).int()
        return torch.where(bits < 0, -32768 - bits, bits)

    return int((ordered(one) - ordered(other)).abs().max())


def by_peft(base: Path, run: Run, change: Callable[[Any], None] = lambda model: None) -> Tensors:
    """What plain PEFT makes of plain transformers' model in float32, under the published names."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    change(model)
    merged = PeftModel.from_pretrained(model, run.adapter).merge_and_unload()
    return {n.replace("model.", "model.language_model.", 1): t for n, t in merged.state_dict().items()}


def test_every_weight_is_within_a_unit_in_the_last_place_of_what_peft_merges(case: tuple[Path, Run]) -> None:
    base, run = case
    expected, found = by_peft(base, run), tensors_of(run.merged)
    before = tensors_of(base)
    names = {name for name in before if not torch.equal(before[name], found[name])}
    assert names <= expected.keys()
    for name in expected.keys() & found.keys():
        assert units_apart(found[name], expected[name]) <= 1, name  # PEFT adds in another order


def test_tensors_without_an_adapter_and_all_headers_are_the_base_s_byte_for_byte(case: tuple[Path, Run]) -> None:
    base, run = case
    changed = {tensor.name for tensor in take(run, "bf16").touched}
    before, after = tensors_of(base), tensors_of(run.merged)
    assert {name for name in before if not torch.equal(before[name], after[name])} == changed
    assert {name.split(".")[0] for name in before.keys() - changed} >= {"mtp", "model"}
    for file in base.glob("*.safetensors"):
        whole, made = file.read_bytes(), (run.merged / file.name).read_bytes()
        begin = 8 + int.from_bytes(whole[:8], "little")
        assert whole[:begin] == made[:begin]
        assert len(whole) == len(made)
    copied = {file.name for file in base.iterdir()} - {"README.md", "demo_base.json"}
    assert {file.name for file in run.merged.iterdir()} == copied
    for name in copied - {file.name for file in base.glob("*.safetensors")}:
        assert (run.merged / name).read_bytes() == (base / name).read_bytes()


def test_plain_transformers_loads_it_under_both_classes_and_answers_as_with_the_adapter(case: tuple[Path, Run]) -> None:
    base, run = case
    alone = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    check_answers(run.merged, base, PeftModel.from_pretrained(alone, run.adapter))


def test_the_proof_reads_from_disk_what_a_model_in_memory_computes(case: tuple[Path, Run]) -> None:
    base, run = case
    plan = replace(read_plan(run.plan), dtype="float32", quantisation=None)
    model = load_adapter(load_base(base, plan), run.adapter).get_base_model().model
    ids = torch.arange(3, 60)
    with torch.no_grad():
        expected = model(input_ids=ids[None], use_cache=False).last_hidden_state[0]
    found = states(model_on_disk(Weights(base), plan, Adapter(run.adapter)), ids)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # float32, in other pieces


def test_the_manifest_tells_what_was_proven_and_hashes_every_file(case: tuple[Path, Run]) -> None:
    _, run = case
    entry = manifest.read(run.manifest)["stages"][-1]
    assert entry["stage"] == "merge"
    assert all(claim["holds"] for claim in entry["claims"])
    assert entry["outputs"].keys() == {f"merged/{file.name}" for file in run.merged.iterdir()}
    told = {claim["claim"].split(",")[0]: claim for claim in entry["claims"]}
    assert told["mean KL in nats a token"]["measured"] <= told["mean KL in nats a token"]["tolerance"]
    assert not (run.path / "merged.partial").exists()


@pytest.mark.parametrize("name", ["qlora", "expert rank"])
def test_the_dequantised_base_is_what_training_multiplied_with(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    base_name, wishes = KINDS[name]
    base: Path = request.getfixturevalue(base_name)
    run = made_run(base, tmp_path, *wishes)
    order = take(run, "dequantised")
    model = load_base(base, order.plan)
    quantised = {
        f"{block}.weight": dequantize_4bit(module.weight.data, module.weight.quant_state)
        for block, module in model.named_modules()
        if isinstance(module, Linear4bit)
    }
    for block, experts in experts_of(model).items():
        quantised |= {f"{block}.{leaf}": stack.whole(0, stack.at_once) for leaf, stack in experts.stacks.items()}
    assert order.base.quantised.keys() == quantised.keys()
    for weight, expected in quantised.items():
        rows = torch.cat([rows.clone() for _, rows in order.base.rows(weight)])
        assert torch.equal(rows.view(expected.shape), expected.float()), weight

    def dequantise(plain: Any) -> None:
        for weight, restored in quantised.items():
            plain.get_parameter(weight).data.copy_(restored)

    merge(run, "dequantised", None, lambda line: None, lambda *told: None)
    expected, found = by_peft(base, run, dequantise), tensors_of(run.merged)
    for weight in expected.keys() & found.keys():
        assert units_apart(found[weight], expected[weight]) <= 1, weight


@pytest.mark.parametrize("head", ["int8", "nf4"])
def test_a_quantised_head_is_merged_as_it_was_in_training(head: str, pico_base: Path, tmp_path: Path) -> None:
    run = made_run(pico_base, tmp_path, f"memory.head={head}")
    order = take(run, "dequantised")
    expected = torch.cat([tile.clone() for _, tile in load_base(pico_base, order.plan).lm_head.tiles()])
    merge(run, "dequantised", None, lambda line: None, lambda *told: None)
    assert torch.equal(tensors_of(run.merged)["lm_head.weight"], expected.to(torch.bfloat16))


def test_experts_that_are_stored_one_by_one_become_what_fused_ones_become(pico_moe_base: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    tensors: Tensors = {}
    for name, tensor in tensors_of(pico_moe_base).items():
        block = name.rpartition(".")[0]
        if name.endswith("mlp.experts.gate_up_proj"):
            for expert, halves in enumerate(tensor):
                for leaf, half in zip(("gate", "up"), halves.chunk(2), strict=True):
                    tensors[f"{block}.{expert}.{leaf}_proj.weight"] = half.clone()
        elif name.endswith("mlp.experts.down_proj"):
            tensors |= {f"{block}.{expert}.down_proj.weight": each.clone() for expert, each in enumerate(tensor)}
        else:
            tensors[name] = tensor
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    for file in pico_moe_base.iterdir():
        if not file.name.startswith(("model", "demo_base", "README")):
            (base / file.name).write_bytes(file.read_bytes())
    order = take(made_run(pico_moe_base, tmp_path / "run", *KINDS["expert rank"][1]), "dequantised")
    for quantised in ({}, order.base.quantised):
        fused, alone = Weights(pico_moe_base, quantised), Weights(base, quantised)
        for name in fused.parameters:
            change = order.changes.change(name, 8) if name in order.changes.place(fused.parameters) else None
            whole, parts = (
                [(first, (change.apply(first, rows) if change else rows).clone()) for first, rows in weights.rows(name)]
                for weights in (fused, alone)
            )
            assert len(parts) == len(alone.stored[name])
            assert torch.equal(torch.cat([rows for _, rows in whole]), torch.cat([rows for _, rows in parts]))


def test_distances_that_come_in_pieces_of_the_vocabulary_are_those_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = 3 * torch.randn(7, 1000, generator=generator)
    found = wanted + 0.3 * torch.randn(7, 1000, generator=generator)
    comparison = Comparison(7)
    for first, last in pairwise([0, 1, 400, 999, 1000]):
        comparison.take(first, wanted[:, first:last], found[:, first:last])
    p, q = wanted.double().log_softmax(1), found.double().log_softmax(1)
    distance = comparison.distance()
    assert distance.mean_kl == pytest.approx((p.exp() * (p - q)).sum(1).mean().item(), rel=1e-12)
    assert distance.max_difference == (wanted.double() - found.double()).abs().max().item()
    assert distance.agreement == (wanted.argmax(1) == found.argmax(1)).double().mean().item()


def test_what_was_really_trained_is_merged(pico_base: Path, tmp_path: Path) -> None:
    recipe = load(write_recipe(tmp_path, pico_base, num_rows=12, long_row=False), ["train.max_steps=2"])
    run, dataset = begin(recipe, tmp_path / "runs", Stop(), lambda line: None)
    train(run, Stop(), lambda line: None, lambda record: None, dataset)
    entry = merge(run, "bf16", None, lambda line: None, lambda *told: None)
    assert all(claim["holds"] for claim in entry["claims"])
    assert json.loads(run.manifest.read_text())["stages"][-1] == entry
