"""Plain peft and transformers read what we wrote, and compute with it what we computed when we trained it."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial import in_process
from trial.small_run import write_recipe

from finetune.errors import ArtifactError
from finetune.generate import open_tuned
from finetune.model import load_adapter, load_base
from finetune.model.experts import experts_of
from finetune.plan import UNQUANTISED, read_plan
from finetune.run import Run

KEY = re.compile(
    r"base_model\.model\.model\.layers\.\d\."
    r"(linear_attn\.(in_proj_qkv|in_proj_z|out_proj)|self_attn\.[qkvo]_proj|mlp\.(shared_expert\.)?(gate|up|down)_proj"
    r"|mlp\.experts(\.base_layer)?)\.lora_[AB]\.weight"
)
TOLERANCE = {"lora": 0.0, "qlora": 0.0}
"""Of the logits: the same arithmetic on the same bits, so nothing is granted."""


class Trained:
    """A training that is still in memory, with its run."""

    def __init__(self, base: Path, folder: Path, method: str) -> None:
        recipe = write_recipe(folder, base, num_rows=16, long_row=False)
        wishes = ("train.max_steps=2", f"method={method}", "train.learning_rate=0.05")
        self.run, dataset = in_process.begin(recipe, folder / "runs", *wishes)
        self.base, self.method, self.rows = base, method, dataset.held_out
        self.model = in_process.train(self.run, dataset).trainer.model.eval()

    def logits(self, model: Any) -> torch.Tensor:
        """Of both held-out rows: (rows' tokens, vocabulary)."""
        with torch.inference_mode():
            return torch.cat([model(input_ids=torch.tensor([row.ids])).logits[0] for row in self.rows])


@pytest.fixture(scope="module", params=["dense-lora", "dense-qlora", "moe-lora", "moe-qlora", "tied-qlora"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    kind, method = request.param.split("-")
    base = request.getfixturevalue({"dense": "pico_base", "moe": "pico_moe_base", "tied": "pico_tied_base"}[kind])
    return Trained(base, tmp_path_factory.mktemp(request.param), method)


def plain(base: Path, method: str, trained: Any) -> Any:
    """Loads a base as its user would who never heard of us; routed experts as 4 bits have left them.

    But on CPUs with AVX512-BF16 bitsandbytes 0.50 computes in bfloat16 once a 4-bit model is in evaluation; the logits
    of these models then differ by 0.03. The training was in float32, so float32 is compared.
    """
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=list(UNQUANTISED),
    )
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, quantization_config=four_bits if method == "qlora" else None
    )
    for name, experts in experts_of(trained).items():  # which bitsandbytes alone would leave as they are
        for leaf, stack in experts.stacks.items():
            weight = getattr(model.get_submodule(name.removeprefix("base_model.model.")), leaf)
            weight.data.copy_(stack.whole(0, experts.num_experts))
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


# PEFT 0.21 looks for the keys of rank_pattern among modules only, warns, and applies them to parameters all the same
@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning")
def test_plain_peft_computes_the_logits_that_we_trained(trained: Trained) -> None:
    bare = plain(trained.base, trained.method, trained.model)
    ours, base = trained.logits(trained.model), trained.logits(bare)
    assert (ours - base).abs().max() > 0.1, "the adapter does something"
    read = PeftModel.from_pretrained(bare, trained.run.adapter).eval()
    # PEFT makes W + BA of a routed expert, we never do: the sums are rounded in another order
    tolerance = 2e-5 if "moe" in trained.base.name else TOLERANCE[trained.method]
    assert (trained.logits(read) - ours).abs().max() <= tolerance


def test_our_own_reader_computes_the_same(trained: Trained) -> None:
    tuned = open_tuned(trained.run)
    assert (trained.logits(tuned.model) - trained.logits(trained.model)).abs().max() <= TOLERANCE[trained.method]


def test_the_two_files_are_what_peft_expects(trained: Trained) -> None:
    assert sorted(path.name for path in trained.run.adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    tensors = load_file(trained.run.adapter / "adapter_model.safetensors")
    moe = "moe" in trained.base.name
    assert len(tensors) == (50 + 2 * 2 * 4 if moe else 50)
    assert sum(".mlp.experts." in name for name in tensors) == (2 * 2 * 4 if moe else 0)
    assert all(KEY.fullmatch(name) for name in tensors), [n for n in tensors if not KEY.fullmatch(n)]
    config = LoraConfig.from_pretrained(trained.run.adapter)
    # beside target_parameters PEFT refuses dropout; the one that was used stands in the run's recipe
    dropout = 0.0 if moe else 0.1
    assert (config.r, config.lora_alpha, config.lora_dropout, config.bias) == (4, 8.0, dropout, "none")
    assert config.task_type == "CAUSAL_LM"
    assert config.inference_mode


def test_the_config_tells_nothing_of_this_machine(trained: Trained) -> None:
    text = (trained.run.adapter / "adapter_config.json").read_text()
    told = json.loads(text)
    assert told["base_model_name_or_path"] == trained.base.name
    assert not [value for value in strings(told) if os.path.isabs(value)]
    assert os.uname().nodename not in told.values()


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")  # all that PEFT itself would say
def test_an_adapter_on_another_base_is_refused(trained: Trained, pico_base: Path, pico_moe_base: Path) -> None:
    other = pico_base if trained.base == pico_moe_base else pico_moe_base
    plan = read_plan(trained.run.plan)
    with pytest.raises(ArtifactError, match="adapter") as told:
        load_adapter(load_base(other, plan), trained.run.adapter)
    assert told.value.problems[0].where == str(trained.run.adapter)


def test_a_run_without_an_adapter_says_how_to_get_one(trained: Trained, tmp_path: Path) -> None:
    run = Run(tmp_path / "small-0001")
    with pytest.raises(ArtifactError, match="the run has no adapter") as told:
        load_adapter(trained.model.get_base_model(), run.adapter)
    assert told.value.problems[0].fix == f"finetune train --resume {run.path}"


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in strings(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in strings(inner)]
    return [value] if isinstance(value, str) else []
