"""The plan is arithmetic: every figure here can be checked by hand."""

from dataclasses import replace
from pathlib import Path

import pytest

from finetune.data import Counts
from finetune.errors import ArtifactError, DoesNotFit, RecipeError
from finetune.hardware import Hardware
from finetune.plan import check_weights_fit, make_plan, micro_batch, read_plan
from finetune.recipe import Recipe, load
from finetune.shape import ModelShape, read_shape

CPU = Hardware((), 0, 2**34)
GPU = Hardware(("NVIDIA GeForce RTX 4090",), 24 * 2**30, 2**36)
COUNTS = Counts(
    rows=100,
    held_out_rows=5,
    examples=100,
    held_out_examples=5,
    tokens=20_000,
    learnt_tokens=4_000,
    longest=512,
    dropped=0,
    truncated=0,
    with_reasoning=0,
)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    file = tmp_path / "legal.yaml"
    file.write_text("base: Qwen/Qwen3.6-27B\nrevision: abc\ndata: {train: x.jsonl}\n")
    return load(file, ["train.batch_size=16", "train.epochs=2"])


def with_words(recipe: Recipe, tmp_path: Path, *words: str) -> Recipe:
    return load(tmp_path / "legal.yaml", words)


@pytest.mark.parametrize("rank", [8, 16, 32, 64])
def test_trainable_parameters_of_the_27b_are_the_rank_times_a_constant(
    tmp_path: Path, recipe: Recipe, rank: int
) -> None:
    made = make_plan(with_words(recipe, tmp_path, f"lora.rank={rank}"), read_shape(recipe.base, None), GPU, COUNTS)
    assert made.trainable_parameters == rank * 6_799_360


def test_attention_alone_is_16_of_64_layers(tmp_path: Path, recipe: Recipe) -> None:
    wished = with_words(recipe, tmp_path, "lora.targets=[attention]")
    made = make_plan(wished, read_shape(recipe.base, None), GPU, COUNTS)
    assert made.num_targets == {"attention": 64}
    assert made.trainable_parameters == 16 * 16 * ((5120 + 12288) + 2 * (5120 + 1024) + (6144 + 5120))


def test_steps_follow_from_examples_batch_and_epochs(recipe: Recipe) -> None:
    made = make_plan(recipe, read_shape(recipe.base, None), GPU, COUNTS)
    assert (made.steps_per_epoch, made.steps) == (7, 14)  # ceil(100 / 16), twice
    assert (made.micro_batch, made.accumulation) == (8, 2)  # 4096 // 512 = 8
    assert (made.warmup_steps, made.save_every) == (1, 2)
    assert made.optimizer == "paged_adamw_8bit"
    assert made.alpha == 32


def test_weights_of_the_27b_take_the_known_bytes(tmp_path: Path, recipe: Recipe) -> None:
    shape = read_shape(recipe.base, None)
    made = make_plan(recipe, shape, GPU, COUNTS)
    linears = 24_326_963_200  # without in_proj_a and in_proj_b
    assert made.weight_bytes == round(linears * 0.515869140625) + 2 * (26_895_998_464 - linears)
    assert round(made.weight_bytes / 2**30, 2) == 16.47
    full = make_plan(with_words(recipe, tmp_path, "method=lora"), shape, GPU, COUNTS)
    assert full.weight_bytes == 2 * 26_895_998_464


def test_what_cannot_fit_is_refused_before_a_download(recipe: Recipe) -> None:
    made = make_plan(recipe, read_shape(recipe.base, None), CPU, COUNTS)
    with pytest.raises(DoesNotFit, match=r"Qwen3\.6-27B does not fit here") as told:
        check_weights_fit(made)
    assert "this machine has no GPU and can spare 12.8 GiB" in told.value.problems[0].why
    check_weights_fit(make_plan(recipe, read_shape(recipe.base, None), GPU, COUNTS))


def test_max_steps_overrules_epochs(tmp_path: Path, recipe: Recipe) -> None:
    wished = with_words(recipe, tmp_path, "train.max_steps=3")
    assert make_plan(wished, read_shape(recipe.base, None), GPU, COUNTS).steps == 3


@pytest.mark.parametrize(
    ("batch", "longest", "expected"), [(16, 100, 16), (16, 4096, 1), (16, 9999, 1), (15, 600, 5), (7, 600, 1)]
)
def test_the_micro_batch_divides_the_batch_and_stays_within_the_tokens(batch: int, longest: int, expected: int) -> None:
    assert micro_batch(batch, longest, "cuda") == expected


def test_full_trains_every_text_weight_and_no_adapter(tmp_path: Path, recipe: Recipe) -> None:
    made = make_plan(with_words(recipe, tmp_path, "method=full"), read_shape(recipe.base, None), GPU, COUNTS)
    assert made.trainable_parameters == made.total_parameters == 26_895_998_464
    assert (made.num_targets, made.target_modules, made.quantisation) == ({}, (), None)


def test_a_plan_survives_its_file(tmp_path: Path, recipe: Recipe) -> None:
    made = make_plan(recipe, read_shape(recipe.base, None), CPU, replace(COUNTS, tokens=None))
    (tmp_path / "plan.json").write_text(made.to_json())
    assert read_plan(tmp_path / "plan.json") == made


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"base": 1}', "nonsense"])
def test_a_damaged_plan_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(ArtifactError, match="the run's plan cannot be read"):
        read_plan(tmp_path / "plan.json")


def test_the_revision_of_a_folder_is_dropped_with_a_word(tmp_path: Path, recipe: Recipe) -> None:
    wished = with_words(recipe, tmp_path, "base=./somewhere")
    made = make_plan(wished, read_shape("Qwen/Qwen3.6-27B", None), CPU, COUNTS)
    assert made.revision is None
    assert made.base == "somewhere"
    assert "revision abc is dropped" in made.notes[0]


def test_untrained_experts_are_told(recipe: Recipe) -> None:
    made = make_plan(recipe, read_shape("Qwen/Qwen3.6-35B-A3B", None), CPU, COUNTS)
    assert made.num_targets == {"linear_attention": 90, "attention": 40, "mlp": 120}
    assert any("routed experts (93% of the weights) get no adapter" in note for note in made.notes)


def test_a_family_that_matches_nothing_is_refused_with_those_that_do(recipe: Recipe) -> None:
    shape = ModelShape("x", {"model.language_model.layers.0.mlp.up_proj.weight": (4, 2)}, "qwen3_5")
    with pytest.raises(RecipeError, match="no layer of the family linear_attention") as told:
        make_plan(recipe, shape, CPU, COUNTS)
    assert told.value.problems[0].fix == "lora.targets: [mlp]"


def test_another_architecture_is_refused(recipe: Recipe) -> None:
    with pytest.raises(ArtifactError, match=r"not a Qwen3\.5 or Qwen3\.6"):
        make_plan(recipe, ModelShape("x", {}, "llama"), CPU, COUNTS)
