"""What the plan counts as trained against what PEFT makes of the real architecture, on the meta device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Qwen3_5MoeTextConfig, Qwen3_5TextConfig

from finetune.data import Counts
from finetune.errors import RecipeError
from finetune.hardware import wished
from finetune.memory import Widths, read_widths
from finetune.model import family_of
from finetune.model.experts import TARGETS
from finetune.plan import Plan, make_plan
from finetune.recipe import FAMILIES, load
from finetune.shape import read_shape

DENSE, MIXTURE = "Qwen/Qwen3.6-27B", "Qwen/Qwen3.6-35B-A3B"
COUNTS = Counts(rows=10, examples=10)
CHOICES = [chosen for size in (1, 2, 3, 4) for chosen in combinations(FAMILIES, size)]
"""Every subset of families but the empty one."""


def config_of(widths: Widths) -> Any:
    told: dict[str, Any] = {
        "vocab_size": widths.vocabulary,
        "hidden_size": widths.hidden,
        "num_hidden_layers": widths.num_layers,
        "num_attention_heads": widths.query // widths.attention_head,
        "num_key_value_heads": widths.key_value // widths.attention_head,
        "head_dim": widths.attention_head,
        "linear_num_key_heads": widths.key // widths.head,
        "linear_num_value_heads": widths.value_heads,
    }
    if not widths.num_experts:
        return Qwen3_5TextConfig(**told, intermediate_size=widths.feed_forward)
    told |= {"num_experts": widths.num_experts, "num_experts_per_tok": widths.experts_per_token}
    told |= {"moe_intermediate_size": widths.expert, "shared_expert_intermediate_size": widths.feed_forward}
    return Qwen3_5MoeTextConfig(**told)


@pytest.fixture(scope="module", params=[DENSE, MIXTURE])
def base(request: pytest.FixtureRequest) -> Iterator[tuple[str, Any]]:
    """The whole text model of a base, without a byte of weights."""
    config = config_of(read_widths(read_shape(request.param, None)))
    with torch.device("meta"):
        yield request.param, AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def planned(folder: Path, base: str, rank: int, families: tuple[str, ...], *words: str) -> Plan:
    (folder / "r.yaml").write_text(f"base: {base}\nmethod: lora\ndata: {{train: x.jsonl}}\n")
    known = [family for family in families if family != "experts" or base == MIXTURE]
    recipe = load(folder / "r.yaml", [f"lora.rank={rank}", f"lora.targets=[{','.join(known)}]", *words])
    return make_plan(recipe, read_shape(base, None), wished("h200"), COUNTS)


def peft_counts(model: Any, plan: Plan) -> tuple[int, dict[str, int]]:
    """Adds the plan's adapters, counts what is trained and which families got one, and takes them off again."""
    with torch.device("meta"):
        lora = LoraConfig(
            task_type="CAUSAL_LM",
            r=plan.rank,
            lora_alpha=plan.alpha,
            target_modules=list(plan.target_modules),
            target_parameters=TARGETS if plan.expert_rank else None,
            rank_pattern=dict.fromkeys(TARGETS, plan.expert_rank) if plan.expert_rank else {},
            use_dora=plan.variant == "dora",
            init_lora_weights=False,
        )
        wrapped = get_peft_model(model, lora)
    trained = {name: p.numel() for name, p in wrapped.named_parameters() if p.requires_grad}
    layers = Counter(family_of(name) for name in trained if "lora_A" in name)
    wrapped.unload()
    return sum(trained.values()), dict(layers)


def test_the_text_model_has_as_many_weights_as_the_plan_says(base: tuple[str, Any], tmp_path: Path) -> None:
    name, model = base
    made = planned(tmp_path, name, 16, FAMILIES)
    assert made.total_parameters == sum(parameter.numel() for parameter in model.parameters())


# PEFT 0.21 looks for the keys of rank_pattern among modules only, warns, and applies them to parameters all the same
@pytest.mark.filterwarnings("ignore:The following rank_pattern keys did not match:RuntimeWarning")
@pytest.mark.parametrize(
    ("rank", "families", "words"),
    [(1, families, ()) for families in CHOICES]
    + [(rank, FAMILIES, ()) for rank in (8, 16, 32, 64)]
    + [(16, FAMILIES, ("lora.expert_rank=5",))]
    + [(16, FAMILIES[:3], ("lora.dora=true",)), (8, ("attention", "mlp"), ("lora.dora=true",))],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else str(value),
)
def test_peft_trains_exactly_what_is_planned(
    base: tuple[str, Any], rank: int, families: tuple[str, ...], words: tuple[str, ...], tmp_path: Path
) -> None:
    name, model = base
    if name == DENSE and (families == ("experts",) or words == ("lora.expert_rank=5",)):
        with pytest.raises(RecipeError):
            planned(tmp_path, name, rank, families, *words)
        return
    made = planned(tmp_path, name, rank, families, *words)
    assert peft_counts(model, made) == (made.trainable_parameters, made.num_targets)


@pytest.mark.parametrize("name", [DENSE, MIXTURE])
def test_of_every_choice_the_count_is_the_rank_times_that_of_rank_1(name: str, tmp_path: Path) -> None:
    for families in CHOICES:
        if families == ("experts",) and name == DENSE:
            continue
        one = planned(tmp_path, name, 1, families).trainable_parameters
        for rank in (8, 16, 32, 64):
            made = planned(tmp_path, name, rank, families, *([f"lora.expert_rank={rank}"] if name == MIXTURE else ()))
            assert made.trainable_parameters == rank * one
