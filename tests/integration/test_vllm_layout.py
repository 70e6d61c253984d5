"""The folder that is written for vLLM has the names that its loader looks for, and nothing of the adapter is lost.

vLLM itself is not run. Its rules are written down below from vLLM 0.33.0 (commit 4ba787ec9): vllm/lora/utils.py
(parse_fine_tuned_lora_name, process_packed_modules_mapping), vllm/lora/lora_weights.py (pack_moe),
vllm/lora/peft_helper.py, vllm/model_executor/layers/fused_moe/routed_experts.py (build_expert_params_mapping) and
vllm/model_executor/models/{qwen3_5,qwen3_vl}.py (hf_to_vllm_mapper).
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial import in_process
from trial.small_run import write_recipe

from finetune.errors import ArtifactError
from finetune.experts.layouts import from_vllm, write_for_vllm
from finetune.model import add_adapter, load_base, save_adapter
from finetune.plan import read_plan

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
FAMILIES = "lora.targets=[attention,linear_attention,mlp,experts]"

MOUNTED = {"multimodal": "language_model.model", "text": "model"}
"""Where each class of vLLM has the text model."""

RENAMED = {"multimodal": "language_model.model.", "text": "model."}
"""What its mapper puts in the place of `model.language_model.`."""


class Saved:
    """An adapter of a pico base that was saved without being trained: its numbers are drawn."""

    def __init__(self, base: Path, folder: Path, *wishes: str) -> None:
        recipe = write_recipe(folder, base, num_rows=16, long_row=False)
        run, _ = in_process.begin(recipe, folder / "runs", "method=lora", *wishes)
        self.plan, self.folder = read_plan(run.plan), folder / "adapter"
        model = add_adapter(load_base(base, self.plan), self.plan, dropout=0.0, seed=0)
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter)
        save_adapter(model, self.folder, self.plan)
        self.text = json.loads((base / "config.json").read_text())["text_config"]

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / WEIGHTS)


@pytest.fixture(scope="module")
def mixture(pico_moe_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    wishes = (FAMILIES, "lora.rank=8", "lora.expert_rank=3")
    return Saved(pico_moe_base, tmp_path_factory.mktemp("mixture"), *wishes)


@pytest.fixture(scope="module")
def served(mixture: Saved, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_for_vllm(mixture.folder, tmp_path_factory.mktemp("served") / "adapter")


def modules(text: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Lists what vLLM gives an adapter in the text model, with outputs and inputs of each.

    A mixture's `experts` is packed from experts.0.gate_proj, experts.0.down_proj, experts.0.up_proj, experts.1... .
    """
    hidden, inner = text["hidden_size"], text["moe_intermediate_size"]
    shared, head = text["shared_expert_intermediate_size"], text["head_dim"]
    queries, keys = text["num_attention_heads"] * head, text["num_key_value_heads"] * head
    key = text["linear_num_key_heads"] * text["linear_key_head_dim"]
    value = text["linear_num_value_heads"] * text["linear_value_head_dim"]
    found = {}
    for number, kind in enumerate(text["layer_types"]):
        if kind == "full_attention":
            leaves = {"q_proj": (2 * queries, hidden), "k_proj": (keys, hidden), "v_proj": (keys, hidden)}
            leaves = {f"self_attn.{name}": shape for name, shape in {**leaves, "o_proj": (hidden, queries)}.items()}
        else:
            leaves = {"in_proj_qkv": (2 * key + value, hidden), "in_proj_z": (value, hidden)}
            leaves = {f"linear_attn.{name}": shape for name, shape in {**leaves, "out_proj": (hidden, value)}.items()}
        widths = {"shared_expert": shared} | {f"experts.{each}": inner for each in range(text["num_experts"])}
        for block, width in widths.items():
            leaves |= {f"mlp.{block}.{name}": (width, hidden) for name in ("gate_proj", "up_proj")}
            leaves[f"mlp.{block}.down_proj"] = (hidden, width)
        found |= {f"layers.{number}.{name}": shape for name, shape in leaves.items()}
    return found


def place(key: str, kind: str) -> tuple[str, str]:
    """Gives the module that vLLM hands a tensor to, and whether it takes it for an A or a B."""
    assert key.startswith("base_model.model.")
    name = key.replace("base_model.model.", "")
    if name.startswith("model.language_model."):
        name = name.replace("model.language_model.", RENAMED[kind], 1)
    *module, side, last = name.split(".")
    assert last == "weight"
    return ".".join(module), side


def rank_and_scale(config: dict[str, Any], key: str) -> tuple[int, float]:
    """Gives what vLLM takes for the rank and the scale of a tensor: the first pattern that ends its module's name."""
    name = key.replace("base_model.model.", "").rpartition(".lora_")[0]

    def told(patterns: dict[str, Any], otherwise: Any) -> Any:
        return next((v for key, v in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), otherwise)

    rank = told(config["rank_pattern"], config["r"])
    alpha = told(config["alpha_pattern"], config["lora_alpha"])
    return rank, alpha / (rank**0.5 if config["use_rslora"] else rank)


@pytest.mark.parametrize("kind", MOUNTED)
def test_every_module_of_vllm_gets_its_two_matrices_and_nothing_is_left_over(
    mixture: Saved, served: Path, kind: str
) -> None:
    config = json.loads((served / CONFIG).read_text())
    found = {place(key, kind): tuple(t.shape) for key, t in load_file(served / WEIGHTS).items()}
    wanted = {}
    for name, (out, into) in modules(mixture.text).items():
        rank = mixture.plan.expert_rank if ".experts." in name else mixture.plan.rank
        wanted[f"{MOUNTED[kind]}.{name}", "lora_A"] = (rank, into)
        wanted[f"{MOUNTED[kind]}.{name}", "lora_B"] = (out, rank)
    assert found == wanted
    leaves = {module.rpartition(".")[2] for module, _ in found}
    assert set(config["target_modules"]) == leaves
    assert config["target_parameters"] is None


def test_the_names_are_those_of_the_published_text_model(served: Path) -> None:
    first = {name for name in load_file(served / WEIGHTS) if ".layers.0.mlp.experts.7." in name}
    at = "base_model.model.model.language_model.layers.0.mlp.experts.7"
    assert first == {f"{at}.{leaf}_proj.lora_{side}.weight" for leaf in ("gate", "up", "down") for side in "AB"}


def test_converted_back_it_is_the_adapter_that_was_saved(mixture: Saved, served: Path) -> None:
    back = from_vllm(load_file(served / WEIGHTS), mixture.text["num_experts"])
    assert back.keys() == mixture.tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in mixture.tensors.items())


@pytest.mark.parametrize("variant", ["lora.rslora=false", "lora.rslora=true"])
def test_vllm_scales_each_module_as_it_was_trained(pico_moe_base: Path, tmp_path: Path, variant: str) -> None:
    saved = Saved(pico_moe_base, tmp_path, FAMILIES, "lora.rank=8", "lora.expert_rank=3", variant)
    folder = write_for_vllm(saved.folder, tmp_path / "served")
    config, plan = json.loads((folder / CONFIG).read_text()), saved.plan
    for key, tensor in load_file(folder / WEIGHTS).items():
        rank, scale = rank_and_scale(config, key)
        trained = plan.expert_rank if ".experts." in key else plan.rank
        alpha = plan.expert_alpha if ".experts." in key else plan.alpha
        assert rank == trained == tensor.shape[0 if ".lora_A." in key else 1]
        assert scale == alpha / (trained**0.5 if plan.variant == "rslora" else trained)
        # a vLLM that knows no patterns takes r and lora_alpha for all: the plan gave experts the same scale
        assert scale == pytest.approx(rank_and_scale(config | {"rank_pattern": {}, "alpha_pattern": {}}, key)[1])


def test_an_adapter_without_experts_is_renamed_and_no_more(pico_base: Path, tmp_path: Path) -> None:
    saved = Saved(pico_base, tmp_path)
    folder = write_for_vllm(saved.folder, tmp_path / "served")
    assert (folder / CONFIG).read_text() == (saved.folder / CONFIG).read_text()
    written, before = load_file(folder / WEIGHTS), "base_model.model.model."
    assert written.keys() == {name.replace(before, before + "language_model.") for name in saved.tensors}
    assert from_vllm(written, 0).keys() == saved.tensors.keys()


def test_whoever_may_read_the_adapter_may_read_what_is_served(mixture: Saved, served: Path) -> None:
    assert sorted(path.name for path in served.iterdir()) == [CONFIG, WEIGHTS]
    assert {path.stat().st_mode for path in served.iterdir()} == {(mixture.folder / CONFIG).stat().st_mode}


def renamed(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file(
        {name.replace("model.layers", "model.language_model.layers"): t for name, t in tensors.items()},
        folder / WEIGHTS,
    )


def told(folder: Path, **more: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | more))


def without_one(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["base_model.model.model.layers.0.mlp.experts.lora_A.weight"]
    save_file(tensors, folder / WEIGHTS)


WRONG: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no folder": (shutil.rmtree, "the adapter cannot be read", "No such file"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "the adapter cannot be read", "No such file"),
    "half of the weights": (lambda f: (f / WEIGHTS).write_bytes(b"1" * 99), "the adapter cannot be read", "header"),
    "a config that is no JSON": (lambda f: (f / CONFIG).write_text("{"), "the adapter cannot be read", "Expecting"),
    "a config of nobody": (lambda f: (f / CONFIG).write_text("{}"), "not one of ours", "not of a LoRA that we wrote"),
    "another method": (lambda f: told(f, peft_type="IA3"), "not one of ours", "not of a LoRA that we wrote"),
    "DoRA": (lambda f: told(f, use_dora=True), "vLLM does not serve DoRA", "does not yet support DoRA"),
    "trained routers": (lambda f: told(f, modules_to_save=["mlp.gate"]), "does not serve trained routers", "low-rank"),
    "names of another class": (renamed, "not one of ours", "language_model.*is not a name that we give"),
    "no rank of experts": (lambda f: told(f, rank_pattern={}), "not one of ours", "does not fit them"),
    "experts that are not told": (lambda f: told(f, target_parameters=None), "not one of ours", "does not fit them"),
    "another rank": (
        lambda f: told(f, rank_pattern={"mlp.experts.gate_up_proj": 7}),
        "not one of ours",
        "does not fit",
    ),
    "a tensor is missing": (without_one, "not one of ours", "does not fit them"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_folder_that_is_not_ours_is_told_as_what_it_is(mixture: Saved, tmp_path: Path, case: str) -> None:
    damage, what, why = WRONG[case]
    adapter = tmp_path / "adapter"
    shutil.copytree(mixture.folder, adapter)
    damage(adapter)
    with pytest.raises(ArtifactError, match=what) as error:
        write_for_vllm(adapter, tmp_path / "served")
    problem = error.value.problems[0]
    assert problem.where == str(adapter)
    assert re.search(why, problem.why)
    assert problem.fix.startswith("finetune merge" if "not serve" in what else "give the folder `adapter`")
    assert sorted(path.name for path in tmp_path.iterdir()) in ([], ["adapter"])


def test_what_is_there_is_never_replaced(mixture: Saved, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    with pytest.raises(ArtifactError, match="there is something in this place"):
        write_for_vllm(mixture.folder, tmp_path / "served")
    assert [path.name for path in tmp_path.iterdir()] == ["served"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_for_vllm(mixture.folder, tmp_path / "file" / "served")
