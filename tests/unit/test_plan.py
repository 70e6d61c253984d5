"""The plan is arithmetic: every figure here can be checked by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.cards import CARDS
from finetune.data import Counts
from finetune.errors import ArtifactError, DoesNotFit, RecipeError
from finetune.hardware import Hardware, wished
from finetune.levers import POSITIONS, Levers
from finetune.plan import Choices, Plan, check_fits, decide, make_plan, read_plan
from finetune.plan.candidates import micro_batches, work_of
from finetune.recipe import Recipe, load
from finetune.shape import ModelShape, read_shape

DENSE, MIXTURE = "Qwen/Qwen3.6-27B", "Qwen/Qwen3.6-35B-A3B"

CPU = Hardware((), 0, 2**34)
RTX_4090 = Hardware(
    gpus=("NVIDIA GeForce RTX 4090",),
    gpu_bytes=24 * 2**30,
    host_bytes=2**36,
    card=CARDS["rtx4090"],
    rule_kernel=True,
    kernels=True,
    compute_capability=(8, 9),
)
COUNTS = Counts(
    rows=100,
    held_out_rows=5,
    examples=100,
    held_out_examples=5,
    tokens=20_000,
    learnt_tokens=4_000,
    longest=512,
    longest_held_out=512,
)
UNKNOWN = replace(COUNTS, tokens=None, learnt_tokens=None, longest=None)
"""Before the base's tokenizer is on disk: every example counts as long as data.max_length."""


def written(folder: Path, *words: str) -> Recipe:
    """Loads a recipe of little more than a base, with words laid over it as on the command line."""
    file = folder / "legal.yaml"
    file.write_text(f"base: {DENSE}\nrevision: abc\ndata: {{train: x.jsonl}}\n")
    return load(file, words)


def planned(folder: Path, *words: str, hardware: Hardware = RTX_4090, counts: Counts = COUNTS) -> Plan:
    recipe = written(folder, *words)
    return make_plan(recipe, read_shape(recipe.base, None), hardware, counts)


# what does not depend on bytes


def test_steps_follow_from_examples_batch_and_epochs(tmp_path: Path) -> None:
    made = planned(tmp_path, "train.batch_size=16", "train.epochs=2")
    assert (made.steps_per_epoch, made.steps) == (7, 14)  # ceil(100 / 16), twice
    assert (made.warmup_steps, made.save_every) == (1, 2)
    assert made.alpha == 32
    assert made.choices.micro_batch * made.choices.accumulation == 16
    assert made.run_seconds == pytest.approx(200 / 16 * made.step_seconds), "each epoch ends in a part of a batch"
    assert made.energy_kwh == pytest.approx(450 * made.run_seconds / 3.6e6)  # watts of an RTX 4090


def test_max_steps_overrules_epochs(tmp_path: Path) -> None:
    assert planned(tmp_path, "train.max_steps=3").steps == 3


@pytest.mark.parametrize("rank", [8, 16, 32, 64])
def test_trainable_parameters_of_the_27b_are_the_rank_times_a_constant(tmp_path: Path, rank: int) -> None:
    assert planned(tmp_path, f"lora.rank={rank}").trainable_parameters == rank * 6_799_360


def test_attention_alone_is_16_of_64_layers(tmp_path: Path) -> None:
    made = planned(tmp_path, "lora.targets=[attention]")
    assert made.num_targets == {"attention": 64}
    assert made.trainable_parameters == 16 * 16 * ((5120 + 12288) + 2 * (5120 + 1024) + (6144 + 5120))


def test_dora_trains_the_length_of_each_row_too(tmp_path: Path) -> None:
    plain, made = planned(tmp_path), planned(tmp_path, "lora.dora=true", counts=COUNTS)
    rows = 48 * (10_240 + 6144 + 5120) + 16 * (12_288 + 2 * 1024 + 5120) + 64 * (2 * 17_408 + 5120)
    assert made.trainable_parameters - plain.trainable_parameters == rows
    assert (plain.variant, made.variant) == ("", "dora")


def test_full_trains_every_text_weight_and_no_adapter(tmp_path: Path) -> None:
    made = planned(tmp_path, "method=full")
    assert made.trainable_parameters == made.total_parameters == 26_895_998_464
    assert (made.num_targets, made.target_modules, made.quantisation) == ({}, (), None)
    assert made.parts["trained weights"] == made.parts["gradients"] == 4 * 26_895_998_464


def test_the_revision_of_a_folder_is_dropped_with_a_word(tmp_path: Path) -> None:
    made = make_plan(written(tmp_path, "base=./somewhere"), read_shape(DENSE, None), RTX_4090, COUNTS)
    assert made.revision is None
    assert made.base == "somewhere"
    assert "revision abc is dropped" in made.notes[0]


def test_untrained_experts_are_told(tmp_path: Path) -> None:
    made = planned(tmp_path, f"base={MIXTURE}", "lora.targets=[linear_attention, attention, mlp]")
    assert made.num_targets == {"linear_attention": 90, "attention": 40, "mlp": 120}
    assert made.expert_rank == 0
    assert any("routed experts (93% of the weights) get no adapter" in note for note in made.notes)


def test_experts_get_the_rank_over_the_experts_of_a_token_and_the_scale_of_all_others(tmp_path: Path) -> None:
    made = planned(tmp_path, f"base={MIXTURE}", "lora.rank=32", "lora.alpha=8")
    assert made.num_targets == {"linear_attention": 90, "attention": 40, "mlp": 120, "experts": 80}
    assert (made.expert_rank, made.expert_alpha / made.expert_rank) == (4, made.alpha / made.rank)
    rooted = planned(tmp_path, f"base={MIXTURE}", "lora.expert_rank=3", "lora.rslora=true")
    assert rooted.expert_rank == 3
    assert rooted.expert_alpha / math.sqrt(3) == pytest.approx(rooted.alpha / math.sqrt(rooted.rank))


def test_trained_routers_are_counted_and_what_their_auxiliary_loss_keeps(tmp_path: Path) -> None:
    frozen = planned(tmp_path, f"base={MIXTURE}")
    trained = planned(tmp_path, f"base={MIXTURE}", "lora.router=true")
    assert (frozen.num_routers, trained.num_routers) == (0, 40)
    assert trained.trainable_parameters - frozen.trainable_parameters == 40 * 256 * 2048
    tokens = trained.choices.micro_batch * trained.length
    assert trained.parts["what routers say"] == 40 * tokens * (2 * 2 * 256 + 8 * 8)
    assert "what routers say" not in frozen.parts
    alone = planned(tmp_path, f"base={MIXTURE}", "lora.router=true", "train.router_aux_loss_coef=0")
    assert "what routers say" not in alone.parts


def test_experts_where_there_are_none_are_an_error_unless_all_families_are_named(tmp_path: Path) -> None:
    assert "experts" not in planned(tmp_path).num_targets
    with pytest.raises(RecipeError, match="no layer of the family experts") as told:
        planned(tmp_path, "lora.targets=[mlp, experts]")
    assert told.value.problems[0].fix == "--set 'lora.targets=[mlp]'"


def test_a_family_that_matches_nothing_is_refused_with_those_that_do(tmp_path: Path) -> None:
    whole = read_shape(DENSE, None)
    shape = replace(whole, parameters={n: d for n, d in whole.parameters.items() if "linear_attn" not in n})
    with pytest.raises(RecipeError, match="no layer of the family linear_attention") as told:
        make_plan(written(tmp_path), shape, CPU, COUNTS)
    assert told.value.problems[0].fix == "--set 'lora.targets=[attention,mlp]'"


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"not a Qwen3\.5 or Qwen3\.6"):
        make_plan(written(tmp_path), ModelShape("x", {}, "llama"), CPU, COUNTS)


def test_missing_kernels_are_told_loudly(tmp_path: Path) -> None:
    without = replace(RTX_4090, kernels=False, rule_kernel=False)
    slow = planned(tmp_path, hardware=without)
    assert any(note.startswith("SLOW") and "finetune-proven[kernels]" in note for note in slow.notes)
    fast = planned(tmp_path)
    assert not any("SLOW" in note for note in fast.notes)
    assert slow.step_seconds > 3 * fast.step_seconds
    # the reference holds more: the same levers at the same length
    assert max(slow.moments.values()) > max(fast.moments.values())
    assert "gated delta net: torch reference backward" in slow.moments


def test_several_gpus_share_a_step_where_they_are_asked_to(tmp_path: Path) -> None:
    made = planned(tmp_path, hardware=wished("rtx4090x4"))
    assert (made.processes, made.choices.micro_batch * made.choices.accumulation) == (4, 4)
    alone = planned(tmp_path, hardware=replace(wished("rtx4090x4"), processes=1))
    assert alone.choices.micro_batch * alone.choices.accumulation == 16


def test_zero_shares_out_the_states_and_the_experts_are_spread(tmp_path: Path) -> None:
    alone, shared = (
        planned(tmp_path, f"base={MIXTURE}", *words, hardware=wished("h100x4"), counts=UNKNOWN).parts
        for words in ((), ("parallel.zero=1", "parallel.expert=4"))
    )
    assert shared["optimizer states"] == -(-alone["optimizer states"] // 4)
    assert shared["routed experts in NF4"] == pytest.approx(alone["routed experts in NF4"] / 4, abs=1)
    assert shared["adapters"] == alone["adapters"]


# what is written down


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    for made in (planned(tmp_path), planned(tmp_path, hardware=CPU, counts=UNKNOWN)):
        (tmp_path / "plan.json").write_text(made.to_json())
        assert read_plan(tmp_path / "plan.json") == made


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "null", '{"base": 1}', "nonsense", '{"choices": {"micro": 1}}', '{"choices": []}', "[" * 10**5],
)
def test_a_damaged_plan_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(ArtifactError, match="the run's plan cannot be read"):
        read_plan(tmp_path / "plan.json")


@pytest.mark.parametrize("key", ["parts", "choices", "proposals", "fits"])
def test_a_plan_without_a_key_or_with_one_too_many_is_refused(tmp_path: Path, key: str) -> None:
    told = json.loads(planned(tmp_path).to_json())
    for damaged in ({k: v for k, v in told.items() if k != key}, told | {"more": 1}):
        (tmp_path / "plan.json").write_text(json.dumps(damaged))
        with pytest.raises(ArtifactError, match="the run's plan cannot be read"):
            read_plan(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("processes", "2"),
        ("processes", 0),
        ("fits", 1),
        ("parts", {"x": None}),
        ("notes", [3]),
        ("choices", {"micro_batch": "1"}),
    ],
)
def test_a_plan_with_a_value_of_another_kind_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    told = json.loads(planned(tmp_path).to_json())
    (tmp_path / "plan.json").write_text(json.dumps(told | {key: value}))
    with pytest.raises(ArtifactError, match="the run's plan cannot be read"):
        read_plan(tmp_path / "plan.json")


def test_the_json_has_what_was_promised(tmp_path: Path) -> None:
    told = json.loads(planned(tmp_path).to_json())
    promised = {"fits", "gpu_bytes", "peak_bytes", "static_bytes", "parts", "trainable_parameters"}
    promised |= {"host_bytes", "disk_bytes", "step_seconds", "choices"}
    assert promised <= set(told)
    assert sum(told["parts"].values()) == told["peak_bytes"] <= told["gpu_bytes"]
    assert set(told["choices"]) == {*POSITIONS, "micro_batch", "accumulation"}


def test_the_disk_of_every_stage_is_counted(tmp_path: Path) -> None:
    disk = planned(tmp_path, "memory.optimizer=adamw").disk_bytes
    assert disk["base"] == disk["merged"] == 2 * read_shape(DENSE, None).num_parameters
    assert disk["adapter"] == 4 * 108_789_760
    assert disk["checkpoints"] == 3 * (12 * 108_789_760 + 64 * 1024)  # two are kept while a third is written
    assert disk["gguf bf16"] == 2 * 26_895_998_464
    full = planned(tmp_path, "method=full").disk_bytes
    assert ("adapter" in full, full["merged"], full["weights"]) == (False, disk["merged"], 4 * 26_895_998_464)


def test_merging_takes_less_than_a_gigabyte_of_memory_whatever_the_base(tmp_path: Path) -> None:
    dense = planned(tmp_path).merge_bytes
    mixture = planned(tmp_path, f"base={MIXTURE}").merge_bytes
    # its routers are held in float32, and twice four experts of three matrices
    held = 4 * 40 * 256 * 2048 + 4 * 2 * 4 * 3 * 512 * 2048
    assert dense < mixture < 10**9
    assert 0 < mixture - 650_000_000 - held < 100_000_000
    assert planned(tmp_path, "method=full").merge_bytes == dense


# what is decided


def test_the_plain_stack_is_taken_where_it_fits(tmp_path: Path) -> None:
    made = planned(tmp_path, "base=Qwen/Qwen3.5-4B")
    assert levers_of(made) == Levers()
    assert made.fits
    assert "plain stack" in made.why


def test_a_lever_is_pulled_only_where_it_is_needed(tmp_path: Path) -> None:
    """What the plan chose fits and, with any one lever let go, it does not, or is slower by more than a hundredth."""
    for length in (1024, 2048, 4096, 8192, 12_288, 16_384, 20_480):
        words = (f"data.max_length={length}", "train.batch_size=4")
        recipe = written(tmp_path, *words)
        chosen, found = decide(recipe, read_shape(recipe.base, None), wished("24GB"), UNKNOWN)
        assert chosen.fits, length
        by_choice = {each.choices: each for each in found}
        for name, positions in POSITIONS.items():
            if getattr(chosen.choices, name) != positions[0]:
                other = by_choice[replace(chosen.choices, **{name: positions[0]})]
                less = other.budget.peak_bytes < 24 * 2**30 * 0.97 / 1.03 and other.seconds <= 1.01 * chosen.seconds
                assert not less, f"{length}: {name} was pulled in vain"


def test_the_head_is_rounded_only_where_nothing_else_fits(tmp_path: Path) -> None:
    heads = {}
    for gib in (15, 16, 17, 18, 19, 20, 22, 24, 32):
        recipe = written(tmp_path, "train.batch_size=1", "data.max_length=4096")
        chosen, found = decide(recipe, read_shape(recipe.base, None), wished(f"{gib}GB"), UNKNOWN)
        if chosen.fits:
            heads[gib] = chosen.choices.head
            exact = [each for each in found if each.fits and each.choices.head == "full"]
            assert bool(exact) == (chosen.choices.head == "full")
    assert set(heads.values()) >= {"full"}
    assert list(heads.values()) == sorted(heads.values(), key=["nf4", "int8", "full"].index)


@pytest.mark.parametrize(
    "words",
    [
        ("memory.embeddings=host",),
        ("memory.head=nf4",),
        ("memory.checkpoints=host", "memory.recompute=halves"),
        ("memory.optimizer=paged_adamw_8bit", "memory.micro_batch=2"),
        ("memory.embeddings=device", "memory.head=full", "memory.checkpoints=device", "memory.recompute=layer"),
    ],
)
def test_what_the_recipe_forces_is_done(tmp_path: Path, words: tuple[str, ...]) -> None:
    made = planned(tmp_path, *words)
    told = vars(made.choices)
    for word in words:
        key, value = word.removeprefix("memory.").split("=")
        assert str(told[key]) == value


def test_fits_says_whether_the_peak_and_the_host_are_within_bounds(tmp_path: Path) -> None:
    assert planned(tmp_path).fits
    too_long = planned(tmp_path, "data.max_length=65536", "memory.checkpoints=device", counts=UNKNOWN)
    assert not too_long.fits
    assert too_long.peak_bytes > too_long.gpu_bytes
    poor = replace(RTX_4090, host_bytes=3 * 2**30)  # a process alone takes as much
    small = planned(tmp_path, hardware=poor)
    assert not small.fits
    assert small.peak_bytes <= small.gpu_bytes
    with pytest.raises(DoesNotFit, match="GiB of host memory"):
        check_fits(small, written(tmp_path))


def test_of_a_gpu_that_others_use_only_the_free_part_is_planned(tmp_path: Path) -> None:
    assert planned(tmp_path, hardware=replace(RTX_4090, gpu_free_bytes=10 * 2**30)).gpu_bytes == 10 * 2**30


def test_a_wished_machine_has_as_much_host_memory_as_it_takes(tmp_path: Path) -> None:
    long = ("data.max_length=131072", "memory.checkpoints=host")
    made = planned(tmp_path, *long, hardware=wished("h200"), counts=UNKNOWN)
    assert made.host_bytes > 64 * 131_072 * 10_240
    assert made.fits


def test_without_a_gpu_the_host_is_the_device(tmp_path: Path) -> None:
    made = planned(tmp_path, "base=Qwen/Qwen3.5-0.8B", "method=lora", hardware=CPU)
    assert (made.device, made.dtype, made.gpu, made.kernels) == ("cpu", "float32", "", False)
    assert made.gpu_bytes == int(0.8 * 2**34)
    assert made.fits
    assert levers_of(replace(made, choices=replace(made.choices, recompute="layer"))) == Levers()
    assert "CUDA context" not in made.parts


def test_what_cannot_fit_is_refused_before_a_download(tmp_path: Path) -> None:
    made = planned(tmp_path, hardware=CPU)
    with pytest.raises(DoesNotFit, match=r"Qwen3\.6-27B needs .* this machine has no GPU and can spare 12\.8") as told:
        check_fits(made, written(tmp_path))
    assert "--gpu" in told.value.problems[0].fix
    check_fits(planned(tmp_path), written(tmp_path))


# micro-batches and padding


@pytest.mark.parametrize(
    ("batch", "longest", "expected"),
    [
        (16, 100, [1, 2, 4, 8, 16]),
        (16, 4096, [1, 2, 4, 8, 16]),
        (16, 16_384, [1, 2, 4]),  # 65,536 tokens at most
        (16, 99_999, [1]),
        (15, 6000, [1, 3, 5]),
        (7, 100, [1, 7]),
    ],
)
def test_micro_batches_divide_the_batch_and_stay_within_the_tokens(
    tmp_path: Path, batch: int, longest: int, expected: list[int]
) -> None:
    recipe = written(tmp_path, f"train.batch_size={batch}")
    assert micro_batches(recipe, longest, "cuda") == expected
    assert micro_batches(written(tmp_path, "memory.micro_batch=2"), longest, "cuda") == [2]


def test_padding_is_that_of_lengths_drawn_evenly(tmp_path: Path) -> None:
    recipe = written(tmp_path, "train.batch_size=4")
    even = replace(COUNTS, examples=10, tokens=6000, learnt_tokens=1500, longest=1000)  # mean 600, so from 200 on

    def tokens(micro_batch: int) -> float:
        return work_of(recipe, even, 1000, Choices(micro_batch=micro_batch, accumulation=4 // micro_batch)).tokens

    assert tokens(1) == 4 * 600
    assert tokens(2) == pytest.approx(4 * (200 + 800 * 2 / 3))  # of two, the longer is expected at two thirds
    assert tokens(4) == pytest.approx(4 * (200 + 800 * 4 / 5))
    work = work_of(recipe, even, 1000, Choices(micro_batch=2, accumulation=2))
    assert (work.learnt, work.micro_steps) == (4 * 150, 2)
    unknown = work_of(recipe, UNKNOWN, 1000, Choices(micro_batch=2, accumulation=2))
    assert (unknown.tokens, unknown.learnt) == (4000, 4000)


def test_examples_of_one_length_are_batched_and_uneven_ones_less(tmp_path: Path) -> None:
    words = ("base=Qwen/Qwen3.5-0.8B", "train.batch_size=16", "data.max_length=4096")
    even = replace(COUNTS, tokens=100 * 512, longest=512)
    uneven = replace(COUNTS, tokens=100 * 300, longest=4096)
    assert planned(tmp_path, *words, counts=even).choices.micro_batch > 1
    assert planned(tmp_path, *words, counts=uneven).choices.micro_batch == 1


def levers_of(made: Plan) -> Levers:
    told: dict[str, Any] = {name: getattr(made.choices, name) for name in POSITIONS}
    return Levers(**told)
