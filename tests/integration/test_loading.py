"""What is loaded is bit for bit what transformers loads, from any shards; what is not needed is not read."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial.planned import plan_on_cpu

from finetune import architecture
from finetune.architecture import read_architecture
from finetune.errors import ArtifactError
from finetune.memory import is_quantised
from finetune.model import QuantisedHead, bytes_by_dtype, embed_on_host, load_base
from finetune.model.experts import experts_of, replace_experts
from finetune.model.streaming import PIECE_BYTES, buffer_bytes
from finetune.plan import UNQUANTISED, Plan
from finetune.shape import is_text, read_shape
from finetune.shards import list_tensors, shards

BASES = ("pico_base", "pico_tied_base", "pico_moe_base")
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def plan(pico_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Of QLoRA on this machine; loading asks it for dtype, device, quantisation and levers, whatever the base."""
    return plan_on_cpu(pico_base, tmp_path_factory.mktemp("plan"))


@pytest.fixture(params=BASES)
def base(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def by_transformers(base: Path, plan: Plan) -> Any:
    """Loads a base with transformers; its routed experts then become ours."""
    dtype = getattr(torch, plan.dtype)
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(UNQUANTISED),
    )
    model = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=dtype,
        device_map={"": "cpu"},
        quantization_config=four_bits if plan.quantisation else None,
        attn_implementation="sdpa",
    )
    fused = {n: p.detach() for n, p in model.named_parameters() if ".mlp.experts." in n}
    replace_experts(model, nf4=plan.quantisation is not None, dtype=dtype, device=torch.device("cpu"))
    for name, experts in experts_of(model).items():
        for leaf, stack in experts.stacks.items():
            stack.fill(0, fused[f"{name}.{leaf}"].view(-1, stack.in_features))
        experts.eval()
    return model


def unquantised(plan: Plan, dtype: str = "float32") -> Plan:
    return replace(plan, method="lora", quantisation=None, unquantised=(), dtype=dtype)


def trained_whole(plan: Plan) -> Plan:
    """A plan whose model is all transformers' own, and can be saved."""
    return replace(unquantised(plan), method="full")


def rewrite(base: Path, folder: Path, change: Callable[[Weights], Weights]) -> Path:
    """Copies a base with other weights, all in one file."""
    shutil.copytree(base, folder)
    weights: Weights = {}
    for shard in shards(folder):
        weights |= load_file(shard)
        shard.unlink()
    (folder / "model.safetensors.index.json").unlink()
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def same(ours: Any, theirs: Any) -> bool:
    """Compares two models: names, dtypes and every bit of weights, quantisation states and buffers."""
    one, other = ours.state_dict(), theirs.state_dict()
    buffers = [*ours.named_buffers()], [*theirs.named_buffers()]
    return (
        list(one) == list(other)
        and all(one[n].dtype == other[n].dtype and torch.equal(one[n], other[n]) for n in one)
        and all(n == m and a.dtype == b.dtype and torch.equal(a, b) for (n, a), (m, b) in zip(*buffers, strict=True))
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["qlora", "lora"])
def test_a_base_is_loaded_as_transformers_loads_it(base: Path, plan: Plan, method: str, dtype: str) -> None:
    plan = replace(plan, dtype=dtype) if method == "qlora" else unquantised(plan, dtype)
    ours, theirs = load_base(base, plan), by_transformers(base, plan)
    assert same(ours, theirs)
    assert [(n, type(m)) for n, m in ours.named_modules()] == [(n, type(m)) for n, m in theirs.named_modules()]
    assert {n: p.requires_grad for n, p in ours.named_parameters()} == {
        n: p.requires_grad for n, p in theirs.named_parameters()
    }
    assert ours.generation_config.to_dict() == theirs.generation_config.to_dict()
    assert (ours.training, ours.dtype, ours.device) == (theirs.training, theirs.dtype, theirs.device)
    asked = ("is_loaded_in_4bit", "is_quantized", "quantization_method")
    assert all(hasattr(ours, name) == hasattr(theirs, name) == (method == "qlora") for name in asked)


def test_the_layers_in_4_bits_are_those_that_the_plan_counts(base: Path, plan: Plan) -> None:
    model = load_base(base, plan)
    quantised = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    counted = {n for n, shape in read_shape(str(base), base).parameters.items() if is_quantised(n) and len(shape) == 2}
    assert quantised == {name.replace("model.language_model.", "model.") for name in counted}
    assert {"is_loaded_in_4bit", "quantization_method", "hf_quantizer"} <= vars(model).keys()
    assert model.hf_quantizer.is_trainable


def test_vision_and_the_second_token_are_not_read(base: Path, plan: Plan) -> None:
    load_base(base, plan)  # so that no library is imported while bytes are counted
    told: list[tuple[int, int]] = []
    before = bytes_read()
    load_base(base, plan, progress=lambda done, whole: told.append((done, whole)))
    read = bytes_read() - before
    tensors = list_tensors(shards(base))
    text = sum(tensor.num_bytes for tensor in tensors if is_text(tensor.name))
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1] == (text, text)
    small_files = (
        sum(file.stat().st_size for file in base.glob("*.json"))
        + 2 * sum(shard.stat().st_size for shard in shards(base))
        - 2 * sum(tensor.num_bytes for tensor in tensors)
    )
    assert text <= read <= text + 2 * small_files
    assert 2 * small_files < sum(tensor.num_bytes for tensor in tensors if not is_text(tensor.name))


def bytes_read() -> int:
    """All that this process has read from files, whoever did it."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_the_shards_may_part_a_layer_anywhere(base: Path, plan: Plan, tmp_path: Path) -> None:
    whole = rewrite(base, tmp_path / "whole", lambda weights: weights)
    weights = load_file(whole / "model.safetensors")
    parted = tmp_path / "parted"
    shutil.copytree(whole, parted)
    (parted / "model.safetensors").unlink()
    index = {name: f"model-{hash(name) % 9}.safetensors" for name in weights}
    for shard in set(index.values()):
        save_file({name: weights[name] for name in index if index[name] == shard}, parted / shard)
    (parted / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert same(load_base(parted, plan), load_base(base, plan))


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.float64])
def test_weights_are_cast_from_the_dtype_on_disk(
    pico_base: Path, plan: Plan, tmp_path: Path, stored: torch.dtype
) -> None:
    base = rewrite(pico_base, tmp_path / "base", lambda weights: {n: w.to(stored) for n, w in weights.items()})
    assert same(
        load_base(base, replace(plan, dtype="bfloat16")), by_transformers(base, replace(plan, dtype="bfloat16"))
    )


def test_one_tensor_an_expert_and_names_of_the_text_class_are_read_too(
    pico_moe_base: Path, plan: Plan, tmp_path: Path
) -> None:
    plan = trained_whole(plan)
    model = load_base(pico_moe_base, plan)
    del model._weight_conversions  # as if it had been built and not loaded: transformers then writes the other layout
    model.save_pretrained(tmp_path)
    names = {tensor.name for tensor in list_tensors(shards(tmp_path))}
    assert "model.layers.0.mlp.experts.7.down_proj.weight" in names
    assert same(load_base(tmp_path, plan), model)
    frozen = unquantised(plan)
    assert same(load_base(tmp_path, frozen), load_base(pico_moe_base, frozen))


class Share:
    """Half of the experts, as an exchange of two processes would have it."""

    def __init__(self, place: int) -> None:
        self.size, self.place = 2, place


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "one tensor an expert"])
def test_of_the_routed_experts_a_process_reads_only_its_own(
    pico_moe_base: Path, plan: Plan, tmp_path: Path, fused: bool
) -> None:
    base, whole = pico_moe_base, load_base(pico_moe_base, plan)
    if not fused:
        base = tmp_path
        model = load_base(pico_moe_base, trained_whole(plan))
        del model._weight_conversions
        model.save_pretrained(base)
    of_experts = sum(t.num_bytes for t in list_tensors(shards(base)) if is_text(t.name) and ".mlp.experts." in t.name)
    text = sum(t.num_bytes for t in list_tensors(shards(base)) if is_text(t.name))
    for place in (0, 1):
        told: list[tuple[int, int]] = []
        exchange: Any = Share(place)
        half = load_base(base, plan, exchange=exchange, progress=lambda *read: told.append(read))  # noqa: B023
        assert told[-1] == (text - of_experts // 2, text - of_experts // 2)
        for name, experts in experts_of(half).items():
            for leaf, stack in experts.stacks.items():
                held = experts_of(whole)[name].stacks[leaf].state_dict()
                assert all(torch.equal(t, held[n][4 * place : 4 * place + 4]) for n, t in stack.state_dict().items())


def test_a_model_is_saved_under_the_names_that_it_was_published_with(base: Path, plan: Plan, tmp_path: Path) -> None:
    load_base(base, trained_whole(plan)).save_pretrained(tmp_path)
    saved = {tensor.name: tensor.shape for tensor in list_tensors(shards(tmp_path))}
    assert saved == {tensor.name: tensor.shape for tensor in list_tensors(shards(base)) if is_text(tensor.name)}


def without(weights: Weights, *names: str) -> Weights:
    return {name: weight for name, weight in weights.items() if name not in names}


@pytest.mark.parametrize("bias", [False, True])
def test_the_parameters_that_a_config_asks_for_are_those_of_transformers(
    base: Path, tmp_path: Path, bias: bool
) -> None:
    told = json.loads((base / "config.json").read_text())
    told["text_config"]["attention_bias"] = bias
    (tmp_path / "config.json").write_text(json.dumps(told))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path).get_text_config())
    made = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert read_architecture(tmp_path).parameters() == made


@pytest.mark.parametrize("model_type", architecture.NUMBERS)
def test_numbers_that_a_config_leaves_out_are_those_of_transformers(model_type: str) -> None:
    config = AutoConfig.for_model(model_type).get_text_config()
    assert {key: getattr(config, key) for key in architecture.NUMBERS[model_type]} == architecture.NUMBERS[model_type]


def test_the_kinds_of_rotary_positions_are_those_of_transformers() -> None:
    assert sorted(architecture.ROPES) == sorted(["default", *ROPE_INIT_FUNCTIONS])


NORM, UP = "model.language_model.norm.weight", "model.language_model.layers.1.mlp.up_proj.weight"
WRONG: dict[str, tuple[Callable[[Weights], Weights], str, str]] = {
    "missing": (
        lambda w: without(w, NORM, UP),
        "the base lacks weights that its config asks for",
        "2 of them, first model.layers.1.mlp.up_proj.weight",
    ),
    "another shape": (
        lambda w: w | {UP: w[UP][:-1].clone()},
        "the base lacks weights that its config asks for",
        "1 of them, first model.layers.1.mlp.up_proj.weight: it is (127, 64) and should be (128, 64)",
    ),
    "superfluous": (
        lambda w: w | {NORM.replace("norm", "mean"): w[NORM].clone()},
        "the base holds weights that its config has no place for",
        "1 of them, first model.language_model.mean.weight",
    ),
    "quantised": (
        lambda w: w | {UP: w[UP].to(torch.float8_e4m3fn)},
        "the base is quantised already",
        f"{UP} is stored as F8_E4M3; weights can be loaded from F64, F32, F16, BF16",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_weights_that_are_not_those_of_the_config_are_told_before_any_is_read(
    pico_base: Path, plan: Plan, tmp_path: Path, kind: str
) -> None:
    change, what, why = WRONG[kind]
    base = rewrite(pico_base, tmp_path / "base", change)
    with pytest.raises(ArtifactError) as told:
        load_base(base, plan, progress=lambda done, whole: pytest.fail("it was read"))
    problem = told.value.problems[0]
    assert (problem.what, problem.why) == (what, why)
    assert problem.where in (str(base), str(base / "model.safetensors"))
    assert problem.fix


@pytest.mark.parametrize("missing", ["down", "gate"])
def test_a_missing_expert_is_told_by_the_weight_it_belongs_to(
    pico_moe_base: Path, plan: Plan, tmp_path: Path, missing: str
) -> None:
    model = load_base(pico_moe_base, trained_whole(plan))
    del model._weight_conversions
    model.save_pretrained(tmp_path / "saved")
    name = f"model.layers.2.mlp.experts.3.{missing}_proj.weight"
    weights = load_file(tmp_path / "saved" / "model.safetensors")
    save_file(without(weights, name), tmp_path / "saved" / "model.safetensors")
    fused = {"down": "down_proj", "gate": "gate_up_proj"}[missing]
    with pytest.raises(ArtifactError, match="lacks weights") as told:
        load_base(tmp_path / "saved", unquantised(plan))
    assert told.value.problems[0].why == f"1 of them, first model.layers.2.mlp.experts.{fused}"


def test_a_shard_that_is_cut_short_is_refused(pico_base: Path, plan: Plan, tmp_path: Path) -> None:
    shutil.copytree(pico_base, tmp_path / "base")
    shard = shards(tmp_path / "base")[-1]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="a shard of the base is cut short"):
        load_base(tmp_path / "base", plan)


def test_a_base_with_a_quantisation_of_its_own_is_refused(pico_base: Path, plan: Plan, tmp_path: Path) -> None:
    shutil.copytree(pico_base, tmp_path / "base")
    config = json.loads((pico_base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="the base is quantised already"):
        load_base(tmp_path / "base", plan)


def test_a_tied_base_that_stores_its_head_too_is_refused_with_what_mends_it(
    pico_tied_base: Path, plan: Plan, tmp_path: Path
) -> None:
    head = "model.language_model.embed_tokens.weight"
    base = rewrite(pico_tied_base, tmp_path / "base", lambda w: w | {"lm_head.weight": w[head] * 2})
    with pytest.raises(ArtifactError, match="no place for") as told:
        load_base(base, plan)
    assert told.value.problems[0].fix == "tie_word_embeddings: false, in text_config and outside it"
    config = base / "config.json"
    config.write_text(re.sub(r'("tie_word_embeddings": )true', r"\1false", config.read_text()))
    model = load_base(base, plan)
    assert torch.equal(model.lm_head.weight, 2 * model.model.embed_tokens.weight)


def test_the_levers_get_the_same_weights(pico_base: Path, plan: Plan) -> None:
    plain = load_base(pico_base, plan)
    for kind in ("int8", "nf4"):
        levers = replace(plan.choices, embeddings="host", head=kind)
        pulled = load_base(pico_base, replace(plan, choices=levers))
        weight = plain.lm_head.weight
        head = QuantisedHead.empty(*weight.shape, kind=kind, dtype=weight.dtype, device="cpu")
        head.fill(0, weight)
        assert [*pulled.lm_head.state_dict()] == [*head.state_dict()]
        assert all(torch.equal(a, b) for a, b in zip(pulled.lm_head.buffers(), head.buffers(), strict=True))
        vocabulary = sum(t.numel() * t.element_size() for t in [*head.buffers(), pulled.model.embed_tokens.weight])
        others = sum(p.numel() * p.element_size() for p in pulled.parameters())
        assert sum(bytes_by_dtype(pulled).values()) == vocabulary + others
    embed_on_host(plain)
    assert type(pulled.model.embed_tokens) is type(plain.model.embed_tokens)
    assert torch.equal(pulled.model.embed_tokens.weight, plain.model.embed_tokens.weight)


def test_the_buffer_is_small_beside_any_weight_of_a_large_base(tmp_path: Path) -> None:
    with torch.device("meta"):
        wide = {"up": torch.empty(17408, 5120, dtype=torch.bfloat16), "embed": torch.empty(248_320, 5120)}
    (tmp_path / "model.safetensors").touch()
    header = {
        "up": {"dtype": "BF16", "shape": [*wide["up"].shape], "data_offsets": [0, wide["up"].nbytes]},
        "embed": {"dtype": "F32", "shape": [*wide["embed"].shape], "data_offsets": [wide["up"].nbytes, 0]},
    }
    header["embed"]["data_offsets"][1] = wide["up"].nbytes + wide["embed"].nbytes
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:  # sparse: no byte of the weights takes room
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + header["embed"]["data_offsets"][1])
    tensors = list_tensors([tmp_path / "model.safetensors"])
    assert [tensor.num_bytes for tensor in tensors] == [178_257_920, 5_085_593_600]
    assert 0.9 * PIECE_BYTES < buffer_bytes(tensors) <= PIECE_BYTES


CHILD = """
import pickle, resource, sys, torch
from pathlib import Path
from finetune.model import load_base
import finetune.train  # all that a training has imported by then
plan, base = pickle.loads(sys.stdin.buffer.read()), Path(sys.argv[1])
load_base(Path(sys.argv[2]), plan)  # the libraries' own first-time allocations
status = lambda key: 1024 * int(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0])
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
model = load_base(base, plan)
held = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
print(held, status("VmHWM") - before - held)
"""


@pytest.mark.slow
def test_a_load_takes_little_more_memory_than_the_model(pico_base: Path, plan: Plan, tmp_path: Path) -> None:
    """Either vocabulary matrix is 32 times the buffer."""
    import pickle

    base = tmp_path / "wide"
    config = AutoConfig.from_pretrained(pico_base)
    config.text_config.vocab_size, config.text_config.hidden_size = 131_072, 1024
    config.text_config.intermediate_size = 4096
    config.save_pretrained(base)
    with torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(config.get_text_config()).named_parameters()
    weights = {n.replace("model.", "model.language_model.", 1): torch.randn(p.shape).bfloat16() for n, p in shapes}
    save_file(weights, base / "model.safetensors")
    child = [sys.executable, "-W", "error", "-c", CHILD, str(base), str(pico_base)]
    done = subprocess.run(child, input=pickle.dumps(replace(plan, dtype="bfloat16")), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    held, beyond = map(int, done.stdout.split())
    assert held > 2 * 131_072 * 1024 * 2
    # the buffer has 8 MB; 16 to 19 MB were measured, and 200 when 4 million weights were quantised at a time
    assert beyond < 40e6
