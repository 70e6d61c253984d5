"""Forbidden combinations: each is refused with what, why and a way out, and the way out, followed, is accepted."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from test_plan import CPU, DENSE, MIXTURE, RTX_4090, UNKNOWN, written

from finetune.data import Counts
from finetune.errors import ArtifactError, RecipeError
from finetune.hardware import Hardware, wished
from finetune.plan import make_plan, refusals
from finetune.plan.words import as_overrides
from finetune.recipe import load
from finetune.shape import read_shape

FOUR = wished("rtx4090x4")
NO_KERNELS = replace(RTX_4090, kernels=False, rule_kernel=False)
NO_CONVOLUTION = replace(RTX_4090, kernels=False)
OLD = replace(wished("t4"), compute_capability=(7, 5))
H200 = wished("h200")

FORBIDDEN: list[tuple[str, Hardware, tuple[str, ...], tuple[str, ...]]] = [
    # base, machine, the recipe's words, the keys whose lines are named
    (DENSE, NO_KERNELS, ("data.packing=true",), ("data.packing",)),
    (DENSE, FOUR, ("data.packing=true",), ("data.packing",)),
    (DENSE, RTX_4090, ("data.packing=true", "memory.micro_batch=3"), ("memory.micro_batch",)),
    (MIXTURE, H200, ("lora.dora=true",), ("lora.dora",)),
    (MIXTURE, H200, ("lora.expert_rank=513",), ("lora.expert_rank",)),
    (DENSE, RTX_4090, ("lora.dora=true", "lora.rslora=true"), ("lora.rslora",)),
    (MIXTURE, H200, ("lora.dora=true", "lora.rslora=true"), ("lora.dora", "lora.rslora")),
    (DENSE, RTX_4090, ("method=full", "lora.dora=true"), ("lora.dora",)),
    (DENSE, RTX_4090, ("method=full", "lora.rslora=true"), ("lora.rslora",)),
    (DENSE, RTX_4090, ("method=full", "lora.dropout=0.1"), ("lora.dropout",)),
    (DENSE, RTX_4090, ("method=full", "lora.dropout=0.1", "lora.dora=true"), ("lora.dora", "lora.dropout")),
    (DENSE, RTX_4090, ("method=full", "lora.router=true"), ("lora.router",)),
    (DENSE, RTX_4090, ("lora.router=true",), ("lora.router",)),
    (DENSE, RTX_4090, ("train.router_aux_loss_coef=0.01",), ("train.router_aux_loss_coef",)),
    (MIXTURE, H200, ("train.router_aux_loss_coef=0.01",), ("train.router_aux_loss_coef",)),
    (MIXTURE, H200, ("method=full",), ("method",)),
    (MIXTURE, H200, ("lora.rank=600",), ("lora.rank",)),
    ("Qwen/Qwen3.5-0.8B", RTX_4090, ("lora.rank=513",), ("lora.rank",)),
    (DENSE, RTX_4090, ("lora.rank=1024", "method=full", "memory.embeddings=host"), ("memory.embeddings",)),
    (DENSE, RTX_4090, ("method=full", "memory.head=int8"), ("memory.head",)),
    (DENSE, RTX_4090, ("method=full", "memory.head=nf4"), ("memory.head",)),
    ("Qwen/Qwen3.5-4B", RTX_4090, ("memory.embeddings=host",), ("memory.embeddings",)),
    ("Qwen/Qwen3.5-4B", RTX_4090, ("memory.head=int8",), ("memory.head",)),
    ("Qwen/Qwen3.5-2B", CPU, ("memory.head=nf4", "memory.embeddings=host"), ("memory.embeddings", "memory.head")),
    (DENSE, CPU, ("memory.optimizer=paged_adamw_8bit",), ("memory.optimizer",)),
    (DENSE, RTX_4090, ("memory.micro_batch=3", "train.batch_size=8"), ("memory.micro_batch",)),
    (DENSE, RTX_4090, ("memory.micro_batch=16", "train.batch_size=8"), ("memory.micro_batch",)),
    (DENSE, RTX_4090, ("data.max_length=262145",), ("data.max_length",)),
    (DENSE, RTX_4090, ("data.max_length=1048576",), ("data.max_length",)),
    (DENSE, RTX_4090, ("parallel.zero=1",), ("parallel.zero",)),
    (DENSE, CPU, ("parallel.zero=3",), ("parallel.zero",)),
    (DENSE, FOUR, ("parallel.zero=3", "lora.dora=true"), ("lora.dora",)),
    (DENSE, FOUR, ("train.batch_size=6",), ("train.batch_size",)),
    (DENSE, FOUR, ("memory.micro_batch=4", "train.batch_size=8"), ("memory.micro_batch",)),
    (DENSE, FOUR, ("memory.optimizer=adamw_8bit",), ("memory.optimizer",)),
    (DENSE, FOUR, ("method=full",), ("method",)),
    (DENSE, RTX_4090, ("parallel.expert=2",), ("parallel.expert",)),
    (MIXTURE, RTX_4090, ("parallel.expert=2",), ("parallel.expert",)),
    (DENSE, FOUR, ("parallel.expert=4", "parallel.zero=2"), ("parallel.expert",)),
    (MIXTURE, FOUR, ("parallel.expert=3",), ("parallel.expert",)),
    (MIXTURE, FOUR, ("parallel.expert=8",), ("parallel.expert",)),
]
"""The rank of a full training is read by nobody, so it may be anything."""


@pytest.mark.parametrize("hardware", [RTX_4090, NO_CONVOLUTION, CPU])
def test_packing_needs_no_compiled_convolution_and_one_pack_is_a_micro_batch(
    hardware: Hardware, tmp_path: Path
) -> None:
    counts = Counts(rows=640, examples=640, tokens=64_000, learnt_tokens=32_000, longest=300)
    recipe = written(tmp_path, "base=Qwen/Qwen3.5-0.8B", "data.packing=true", "data.max_length=1024")
    plan = make_plan(recipe, read_shape("Qwen/Qwen3.5-0.8B", None), hardware, counts)
    assert (plan.choices.micro_batch, plan.length) == (1, 1024)
    assert "packing: a step's examples lie end to end, in 2 packs or more of up to 1,024 tokens" in plan.notes
    padded = make_plan(written(tmp_path, "data.packing=false"), read_shape("Qwen/Qwen3.5-0.8B", None), hardware, counts)
    assert plan.steps == padded.steps, "a step has the same examples"


@pytest.mark.parametrize(
    ("base", "hardware", "words", "keys"),
    FORBIDDEN,
    ids=[f"{c[0]} {' '.join(c[2])} {n}" for n, c in enumerate(FORBIDDEN)],
)
def test_a_forbidden_combination_is_refused_and_its_way_out_accepted(
    base: str, hardware: Hardware, words: tuple[str, ...], keys: tuple[str, ...], tmp_path: Path
) -> None:
    words = (f"base={base}", *words)
    recipe = written(tmp_path, *words)
    found = refusals(recipe, read_shape(base, None), hardware)
    assert tuple(refusal.key for refusal in found) == keys
    with pytest.raises(RecipeError) as told:
        make_plan(recipe, read_shape(base, None), hardware, UNKNOWN)
    problems = told.value.problems
    assert len(problems) == len(found)
    for problem, refusal in zip(problems, found, strict=True):
        assert problem.what
        assert problem.why
        assert "--set" in problem.where or refusal.key in ("base", "parallel") or "legal.yaml" in problem.where
        fix = shlex.split(problem.fix)[1::2]  # the last says also what it takes to fit
        assert [word.split("=")[0] for word in fix][: len(refusal.out)] == list(refusal.out)
    follow_out(tmp_path, words, tuple(problem.fix for problem in problems), hardware)


def follow_out(folder: Path, words: tuple[str, ...], fixes: tuple[str, ...], hardware: Hardware) -> None:
    """Does what the fixes say, as a user would: then nothing is refused."""
    recipe = load(folder / "legal.yaml", (*words, *(word for fix in fixes for word in shlex.split(fix)[1::2])))
    make_plan(recipe, read_shape(recipe.base, None), hardware, UNKNOWN)


def test_the_first_fix_alone_leads_out_of_the_first_problem(tmp_path: Path) -> None:
    for base, hardware, given, keys in FORBIDDEN:
        words = (f"base={base}", *given)
        (first, *others) = refusals(written(tmp_path, *words), read_shape(base, None), hardware)
        recipe = written(tmp_path, *words, *shlex.split(as_overrides(first.out))[1::2])
        left = [refusal.what for refusal in refusals(recipe, read_shape(recipe.base, None), hardware)]
        assert first.what not in left, (words, keys)
        assert set(left) <= {other.what for other in others}


def test_at_least_25_combinations_are_looked_at() -> None:
    assert len({(base, hardware, words) for base, hardware, words, _ in FORBIDDEN}) >= 25


def test_what_is_allowed_is_not_refused(tmp_path: Path) -> None:
    for base, hardware, words in (
        (DENSE, RTX_4090, ()),
        (DENSE, NO_KERNELS, ("lora.dora=true",)),
        (DENSE, RTX_4090, ("lora.rslora=true", "lora.dropout=0.5", "lora.rank=1024")),
        (MIXTURE, H200, ("lora.dora=true", "lora.rank=512", "lora.targets=[attention, mlp]")),
        (MIXTURE, H200, ("lora.rank=512", "lora.expert_rank=512")),
        (MIXTURE, FOUR, ("parallel.expert=4", "parallel.zero=2")),
        (MIXTURE, FOUR, ("parallel.expert=4", "parallel.zero=3")),
        (DENSE, RTX_4090, ("memory.embeddings=host", "memory.head=nf4", "memory.checkpoints=host")),
        ("Qwen/Qwen3.5-4B", RTX_4090, ("memory.embeddings=device", "memory.head=full")),
        (DENSE, H200, ("method=full", "memory.embeddings=device", "memory.optimizer=paged_adamw_8bit")),
        (DENSE, CPU, ("memory.optimizer=adamw_8bit",)),
        (DENSE, RTX_4090, ("data.max_length=262144",)),
        (DENSE, FOUR, ()),
    ):
        recipe = written(tmp_path, f"base={base}", *words)
        assert refusals(recipe, read_shape(base, None), hardware) == [], words


def test_a_base_that_was_quantised_before_is_refused(tmp_path: Path) -> None:
    shape = replace(read_shape(DENSE, None), quantised_by="gptq")
    recipe = written(tmp_path, "base=./mine")
    (found,) = refusals(recipe, shape, RTX_4090)
    assert (found.key, found.out) == ("base", {"base": "Qwen/Qwen3.6-27B", "revision": None})
    assert "gptq" in found.why
    follow_out(tmp_path, ("base=./mine",), ("--set base=Qwen/Qwen3.6-27B",), RTX_4090)


def test_the_way_to_another_base_forgets_where_the_first_lay_and_its_commit(tmp_path: Path) -> None:
    words = ("base=someone/theirs", "revision=v1", f"base_path={tmp_path}")
    shape = replace(read_shape(DENSE, None), model_type="llama")
    with pytest.raises(ArtifactError) as told:
        make_plan(written(tmp_path, *words), shape, RTX_4090, UNKNOWN)
    out = told.value.problems[0].fix.replace("--set ", "").split()
    recipe = written(tmp_path, *words, *out)
    assert (recipe.base, recipe.base_path, recipe.revision) == (DENSE, None, None)


def test_a_gpu_without_bfloat16_is_refused_for_every_base_and_the_way_out_is_another(tmp_path: Path) -> None:
    for base in (DENSE, "Qwen/Qwen3.5-0.8B"):
        recipe, shape = written(tmp_path, f"base={base}"), read_shape(base, None)
        with pytest.raises(RecipeError, match="t4 is too old") as told:
            make_plan(recipe, shape, OLD, UNKNOWN)
        flag, card, *_ = told.value.problems[0].fix.split()
        assert flag == "--gpu"
        assert make_plan(recipe, shape, wished(card), UNKNOWN).fits


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    words = ("method=full", "lora.dora=true", "memory.head=nf4", "memory.micro_batch=5", "data.packing=true")
    recipe = written(tmp_path, *words, "parallel.zero=2")
    with pytest.raises(RecipeError) as told:
        make_plan(recipe, read_shape(DENSE, None), NO_KERNELS, UNKNOWN)
    assert len(told.value.problems) == 5
    assert all(problem.where.startswith("--set ") for problem in told.value.problems)


@pytest.mark.parametrize(
    ("hidden", "inner", "word", "hardware", "refused"),
    [
        (64, 63, "method=lora", H200, True),  # rows of no whole 16 bytes in bfloat16
        (64, 60, "method=lora", H200, True),
        (64, 60, "method=lora", CPU, False),  # and whole ones in float32
        (12, 12, "method=lora", CPU, False),
        (12, 12, "method=qlora", CPU, True),  # two blocks of 64 weights and a quarter
        (24, 24, "method=qlora", H200, False),
    ],
)
def test_experts_of_widths_that_nothing_multiplies_are_refused(
    hidden: int, inner: int, word: str, hardware: Hardware, refused: bool, tmp_path: Path
) -> None:
    shape = read_shape(MIXTURE, None)
    odd = {
        name: (256, 2 * inner, hidden) if name.endswith("experts.gate_up_proj") else dims
        for name, dims in shape.parameters.items()
    }
    odd["model.language_model.embed_tokens.weight"] = (248320, hidden)
    recipe = written(tmp_path, f"base={MIXTURE}", word)
    found = [each.what for each in refusals(recipe, replace(shape, parameters=odd), hardware)]
    assert found == ["the routed experts of this base cannot be trained with adapters"] * refused
