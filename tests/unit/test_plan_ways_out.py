"""Recipes made by chance, most of them refused or too large: what the fixes say, typed, makes a plan that fits."""

import random
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pytest
from test_plan import UNKNOWN, written

from finetune.errors import DoesNotFit, FinetuneError
from finetune.hardware import Hardware, wished, with_host, with_nodes
from finetune.plan import check_fits, make_plan
from finetune.recipe import load
from finetune.shape import read_shape

NUM = 60
"""Command lines; a thousand took two minutes and showed as little."""

BASES = ("Qwen/Qwen3.6-27B", "Qwen/Qwen3.6-35B-A3B", "Qwen/Qwen3.5-9B", "Qwen/Qwen3.5-0.8B")

MACHINES = (
    # --gpu, --nodes, --host
    ("8GB", 1, ""),
    ("12GB", 1, ""),
    ("24GB", 1, ""),
    ("t4", 1, ""),
    ("t4x2", 1, ""),
    ("h200", 1, ""),
    ("8GBx8", 1, ""),
    ("24GBx3", 1, ""),
    ("24GBx2", 1, "16GB"),
    ("rtx4090x8", 2, ""),
    ("rtx4090x8", 2, "32GB"),
)

WISHES = (
    *("method=lora", "method=full", "data.packing=true"),
    *("data.max_length=32768", "data.max_length=300000", "data.max_length=1000000"),
    *("train.batch_size=1", "train.batch_size=6", "train.batch_size=65535", "train.router_aux_loss_coef=0.01"),
    *("lora.dora=true", "lora.rslora=true", "lora.router=true", "lora.dropout=0.1"),
    *("lora.rank=128", "lora.rank=600", "lora.expert_rank=8", "lora.expert_rank=600"),
    *("lora.targets=[experts]", "lora.targets=[attention,experts]", "lora.targets=[mlp]"),
    *("memory.embeddings=host", "memory.embeddings=device", "memory.head=nf4", "memory.head=full"),
    *("memory.checkpoints=device", "memory.recompute=layer", "memory.spare=2"),
    *("memory.optimizer=paged_adamw_8bit", "memory.optimizer=adamw"),
    *("memory.micro_batch=3", "memory.micro_batch=8", "memory.micro_batch=16"),
    *("parallel.zero=1", "parallel.zero=3", "parallel.expert=2", "parallel.expert=3", "parallel.expert=4"),
)


@dataclass
class Typed:
    """A command line: a machine, and words laid over the recipe."""

    gpu: str
    nodes: int
    host: str
    words: list[str]

    def machine(self) -> Hardware:
        hardware = with_nodes(wished(self.gpu), self.nodes)
        return with_host(hardware, self.host) if self.host else hardware

    def plan(self, folder: Path) -> None:
        recipe = load(folder / "legal.yaml", self.words)
        made = make_plan(recipe, read_shape(recipe.base, None), self.machine(), UNKNOWN)
        check_fits(made, recipe)

    def with_fixes(self, fixes: Iterable[str]) -> "Typed":
        """The same with the flags of these fixes typed after it."""
        other = Typed(self.gpu, self.nodes, self.host, list(self.words))
        parts = [part for fix in fixes for part in shlex.split(fix, comments=True)]
        for flag, value in zip(parts[::2], parts[1::2], strict=True):
            if flag == "--set":
                other.words.append(value)
            elif flag == "--gpu":
                other.gpu = value
            else:
                assert flag == "--host", fixes
                other.host = value
        return other


def by_chance(seed: int) -> Typed:
    chance = random.Random(seed)
    base, (gpu, nodes, host) = chance.choice(BASES), chance.choice(MACHINES)
    return Typed(gpu, nodes, host, [f"base={base}", *chance.sample(WISHES, chance.randint(1, 4))])


def alternatives(error: FinetuneError) -> list[list[str]]:
    """Splits what an error says into fixes of which one leads out, each of lines that are needed together."""
    fixes = [problem.fix for problem in error.problems]
    if isinstance(error, DoesNotFit):
        return [[fix] for fix in fixes[0].replace(" or --set ", "\n--set ").split("\n")]
    return [fixes]


def test_every_fix_and_every_proposal_typed_makes_a_plan_that_fits(tmp_path: Path) -> None:
    written(tmp_path)
    kinds: list[str] = []
    for typed in map(by_chance, range(NUM)):
        try:
            typed.plan(tmp_path)
        except FinetuneError as error:
            kinds.append(type(error).__name__)
            for fixes in alternatives(error):
                try:
                    typed.with_fixes(fixes).plan(tmp_path)
                except FinetuneError as again:
                    pytest.fail(f"{typed}\n  {fixes}\n  {again.problems}")
    assert kinds.count("RecipeError") >= NUM // 2
    assert kinds.count("DoesNotFit") >= 5


def test_every_wish_and_machine_is_tried() -> None:
    tried = list(map(by_chance, range(NUM)))
    assert {typed.gpu for typed in tried} == {gpu for gpu, _, _ in MACHINES}
    assert set(chain.from_iterable(typed.words for typed in tried)) >= set(WISHES)
