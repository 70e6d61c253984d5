"""The benchmark's logic, without a model: what it decides, derives and writes is right whatever the GPU says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "scripts"))

import bench_gpu
from bench import ballast, copies, kernels, parity, predicting, results, steps
from bench.agenda import Clock, Task, agenda
from bench.ballast import CHUNK_BYTES, GIB, GRANULARITY, Ballast
from bench.bases import Base, published
from bench.limits import bisect_longest, find_longest
from bench.stacks import LEVER_SETS, PLANNED, TRL, TRL_LIGER
from transformers.models.qwen3_5 import modeling_qwen3_5

from finetune.hardware import wished
from finetune.levers import POSITIONS, Levers
from finetune.memory import budget
from finetune.model import keep_apart


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return published("Qwen/Qwen3.6-27B", tmp_path_factory.mktemp("27b"))


def up_to(limit: int, asked: list[int]) -> Callable[[int], bool]:
    """A card on which so many tokens fit, and which remembers what it was asked."""

    def fits(tokens: int) -> bool:
        assert tokens not in asked, "a trial on a GPU takes seconds: none is made twice"
        asked.append(tokens)
        return tokens <= limit

    return fits


@pytest.mark.parametrize("limit", [0, 255, 256, 700, 4352, 8191, 8192, 9000])
def test_the_longest_context_is_found_to_a_step(limit: int) -> None:
    asked: list[int] = []
    wanted = min(limit, 8192) // 256 * 256
    assert bisect_longest(up_to(limit, asked), 256, 8192, 256) == wanted
    assert len(asked) <= 6  # 33 answers


@pytest.mark.parametrize("guess", [1, 256, 4352, 8192, 10**9])
@pytest.mark.parametrize("limit", [0, 256, 4352, 4400, 8191, 10**6])
def test_the_longest_context_is_the_same_from_any_guess(limit: int, guess: int) -> None:
    assert find_longest(up_to(limit, []), guess, step=256, most=8192) == min(limit, 8192) // 256 * 256


def test_a_right_guess_takes_four_trials_at_most() -> None:
    asked: list[int] = []
    assert find_longest(up_to(4352, asked), 4352, step=256, most=65_536) == 4352
    assert len(asked) <= 2
    asked.clear()
    find_longest(up_to(34_300, asked), 34_048, step=256, most=65_536)
    assert len(asked) <= 5


class Card:
    """Memory that is handed out as CUDA does it, in whole pieces of 2 MiB."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.given: dict[int, int] = {}

    def allocate(self, size: int) -> int:
        assert size <= self.free
        taken = -(-size // GRANULARITY) * GRANULARITY
        self.free -= taken
        self.given[len(self.given) + 1] = taken
        return len(self.given)

    def release(self, address: int) -> None:
        self.free += self.given[address]


@pytest.mark.parametrize("free", [139 * GIB + 12_345, 79 * GIB, 23 * GIB])
def test_the_ballast_leaves_what_the_card_has_to_two_mebibytes(free: int) -> None:
    card, wanted = Card(free), ballast.free_bytes_of("24GB")
    weight = Ballast(card.allocate, card.release)
    weight.load(lambda: card.free, wanted)
    assert wanted <= card.free < wanted + GRANULARITY
    assert weight.num_bytes == free - card.free
    assert max(card.given.values()) <= CHUNK_BYTES
    weight.drop()
    assert (card.free, weight.num_bytes) == (free, 0)


def test_a_card_that_is_smaller_already_gets_no_ballast() -> None:
    card = Card(20 * GIB)
    weight = Ballast(card.allocate, card.release)
    weight.load(lambda: card.free, ballast.free_bytes_of("24GB"))
    assert (card.free, weight.addresses) == (20 * GIB, [])


def test_cards_leave_what_is_published_of_them() -> None:
    free = {card: ballast.free_bytes_of(card) / GIB for card in ("24GB", "rtx4090", "a10")}
    assert free == pytest.approx({"24GB": 22.8, "rtx4090": 22.8, "a10": 21.4}, abs=1e-9)


def test_the_runtime_that_torch_loaded_is_the_one_that_allocates() -> None:
    maps = "7f00-7f01 r-xp 0 08:01 1 /usr/lib/libc.so.6\n7f02-7f03 r-xp 0 08:01 2 /x/nvidia/cu13/lib/libcudart.so.13\n"
    assert ballast._cudart(maps, "13.0") == "/x/nvidia/cu13/lib/libcudart.so.13"
    assert ballast._cudart("", "13.0") == "libcudart.so.13"


def test_every_lever_is_measured_alone_and_all_together() -> None:
    away = {tuple(levers.__dict__.items()) for levers in LEVER_SETS.values()}
    for name, positions in POSITIONS.items():
        for position in positions[1:]:
            assert tuple(Levers(**{name: position}).__dict__.items()) in away  # type: ignore[arg-type]
    assert LEVER_SETS["all together"] == Levers(*(positions[-1] for positions in POSITIONS.values()))  # type: ignore[arg-type]


def test_the_agenda_begins_with_the_promise_and_ends_with_what_cannot_be_undone() -> None:
    tasks = agenda((1024, 4096, 16_384, 32_768), compared=4096, liger=True)
    assert tasks[0] == Task("cell", PLANNED, 16_384)
    assert {task.stack for task in tasks[-2:]} == {TRL_LIGER}
    assert not any(task.stack == TRL_LIGER for task in tasks[:-2])
    assert len(set(tasks)) == len(tasks)
    cells = {(task.stack, task.tokens) for task in tasks if task.kind == "cell"}
    assert cells >= {(s, t) for s in (*LEVER_SETS, TRL, PLANNED) for t in (1024, 4096, 16_384, 32_768)}
    assert {t.stack for t in tasks if t.kind == "longest"} == {*LEVER_SETS, TRL, TRL_LIGER}
    places = [tasks.index(Task("cell", s, 4096)) for s in ("plain", TRL, PLANNED)]
    assert max(places) == 3, "our stack and trl's are timed one after the other"


def test_a_task_is_begun_only_if_it_would_end_in_time() -> None:
    now = 0.0
    clock = Clock(100.0, lambda: now, cell_seconds=20.0)
    task = Task("cell", "plain", 4096)
    assert clock.num_steps(0.5) == (3, 10)
    assert clock.num_steps(5.0) == (1, 3)
    assert clock.num_steps(30.0) == (1, 1)
    needed = 1.3 * 4 * 5.0
    assert clock.task_seconds(task, 5.0) == pytest.approx(needed)
    assert clock.affords(task, 5.0, switch_seconds=0.0)
    now = 100 - needed - 3
    assert clock.affords(task, 5.0, switch_seconds=2.9)
    assert not clock.affords(task, 5.0, switch_seconds=3.1)


def test_a_step_is_expected_to_be_as_slow_as_the_steps_before() -> None:
    clock = Clock(100.0, lambda: 0.0, cell_seconds=20.0)
    assert clock.step_seconds("plain", 3.0) == 6.0  # nothing is known yet: twice the roofline
    clock.learn("plain", measured=5.0, estimated=2.0)
    assert clock.step_seconds("plain", 3.0) == 7.5
    assert clock.step_seconds("trl", 3.0) == 7.5
    clock.learn("trl", measured=1.0, estimated=1.0)
    assert clock.step_seconds("trl", 3.0) == 3.0


def test_what_is_promised_is_what_the_plan_counts(whole: Base) -> None:
    hardware = wished("24GB")
    for levers in LEVER_SETS.values():
        made = predicting.promise(whole, hardware, levers, 4096)
        counted = budget(predicting.job(whole, hardware, 4096), levers, 1)
        parts = dict(counted.parts)
        assert made.peak_bytes == counted.peak_bytes == sum(parts.values())
        assert made.allocated_bytes == sum(parts.values()) - parts["CUDA context"] - parts["gaps between blocks"]
        longest = predicting.longest(whole, hardware, levers, step=256, most=131_072)
        room = 0.97 * 24 * 2**30
        assert predicting.promise(whole, hardware, levers, longest).peak_bytes <= room
        assert predicting.promise(whole, hardware, levers, longest + 256).peak_bytes > room


def test_a_token_costs_six_flop_a_weight_of_a_linear_layer(whole: Base) -> None:
    assert predicting.weights_in_products(whole, wished("24GB")) == 24_326_963_200


def test_the_configs_model_is_that_of_the_published_shapes(whole: Base, tmp_path: Path) -> None:
    from finetune.model.skeleton import make_skeleton
    from finetune.shape import is_text

    base = published("Qwen/Qwen3.6-27B", tmp_path, num_layers=8)
    plan = predicting.plan_of(base, wished("cpu"), 64)
    made = {name: tuple(p.shape) for name, p in make_skeleton(base.folder, plan).named_parameters()}
    wanted = {n.replace(".language_model", ""): s for n, s in base.shape.parameters.items() if is_text(n)}
    assert made == wanted
    kept = {name for name in whole.shape.parameters if ".language_model.layers." in name}
    assert len({name.split(".")[3] for name in kept}) == 64
    assert {name.split(".")[3] for name in base.shape.parameters if name in kept} == set("01234567")


def test_a_kernels_gradients_are_compared_with_the_reference_in_float32() -> None:
    heads = (2, 6, 32)
    rule = kernels.reference(getattr(modeling_qwen3_5, kernels.RULE))
    errors = kernels.gradient_errors(rule, "cpu", tokens=100, heads=heads)
    assert errors.keys() == {"q", "k", "v", "g", "beta"}
    assert max(errors.values()) < 2**-7, "bfloat16 rounds the gradients once on their way out, and the output"

    def wrong(*given: torch.Tensor, beta: torch.Tensor, **settings: object) -> object:
        return rule(*given, beta=0.9 * beta, **settings)

    assert max(kernels.gradient_errors(wrong, "cpu", tokens=100, heads=heads).values()) > kernels.WRONG


def test_a_kernel_that_refuses_to_run_is_told_by_its_words() -> None:
    def refuses(*_: object, **__: object) -> object:
        raise RuntimeError("Triton 3.6.0 on Hopper\nand so on")

    assert kernels._checked(refuses, "cpu") == (None, "the rule's kernels do not run: Triton 3.6.0 on Hopper")


def test_without_a_gpu_both_functions_are_the_reference() -> None:
    found = kernels.choose("cpu", None)
    assert (found.rule, found.convolution, found.errors) == (kernels.REFERENCE, kernels.REFERENCE, None)
    assert found.why


def test_a_function_that_packing_wrapped_is_still_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in kernels.MODELLING:
        for name in (kernels.RULE, kernels.CONVOLUTION):
            monkeypatch.setattr(module, name, getattr(module, name))  # put back afterwards
    keep_apart("cpu")
    assert {kernels.behind(kernels.RULE), kernels.behind(kernels.CONVOLUTION)} == {kernels.REFERENCE}


@pytest.mark.parametrize(
    ("rule", "convolution", "planned"),
    [
        ("fla", "causal_conv1d", (True, True)),
        ("fla", kernels.REFERENCE, (True, False)),
        (kernels.REFERENCE, kernels.REFERENCE, (False, False)),
    ],
)
def test_the_plan_is_asked_with_the_kernels_that_run(rule: str, convolution: str, planned: tuple[bool, bool]) -> None:
    asked = kernels.Kernels(rule, convolution, "", None).on(wished("24GB"))
    assert (asked.rule_kernel, asked.kernels) == planned


def test_copies_are_counted_by_levers_and_timed_by_the_profiler() -> None:
    sent = copies.bytes_a_step(Levers("host", "full", "host", "halves"), num_layers=64, hidden=5120, e=2, tokens=1024)
    row = 1024 * 5120 * 2
    assert sent == {"to_host": 128 * row, "to_device": 129 * row}
    events = [
        ("Memcpy DtoH (Device -> Pinned)", 30_000.0),
        ("Memcpy DtoH (Device -> Pinned)", 20_000.0),
        ("Memcpy HtoD (Pinned -> Device)", 25_000.0),
        ("Memcpy DtoD (Device -> Device)", 9.0),
        ("Memset (Device)", 1.0),
        ("ampere_bf16_gemm", 100.0),
    ]
    told = copies.speeds(events, sent)
    assert told["num_launches"] == 1
    assert told["to_host_gb_per_second"] == pytest.approx(128 * row / 0.05 / 1e9)
    assert told["to_device_gb_per_second"] == pytest.approx(129 * row / 0.025 / 1e9)
    nothing = copies.bytes_a_step(Levers(), num_layers=64, hidden=5120, e=2, tokens=1024)
    assert copies.speeds([], nothing) == dict.fromkeys(told, None)


def test_gradients_are_compared_tensor_by_tensor() -> None:
    same = parity.Learnt(2.0, {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1.0, 0.0])})
    other = parity.Learnt(2.1, {"a": torch.tensor([6.0, 8.0]), "b": torch.tensor([1.0, 1.0])})
    told = parity.compare(other, same)
    assert told["loss_off"] == pytest.approx(0.05)
    assert told["norm_ratio"] == pytest.approx((102 / 26) ** 0.5)
    assert (told["least_cosine"], told["least_cosine_of"]) == (pytest.approx(2**-0.5), "b")
    assert (told["num_tensors"], told["num_below_goal"]) == (2, 1)
    with pytest.raises(ValueError, match="different tensors"):
        parity.compare(parity.Learnt(2.0, {}), same)


def test_out_of_memory_is_an_answer_and_every_other_error_is_raised() -> None:
    def fails(text: str) -> Callable[[], None]:
        def run() -> None:
            raise RuntimeError(text)

        return run

    assert steps.unless_out_of_memory(lambda: 3) == 3
    assert steps.unless_out_of_memory(fails("CUDA error: out of memory")) is None
    assert steps.unless_out_of_memory(fails("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")) is None
    with pytest.raises(RuntimeError, match="shape"):
        steps.unless_out_of_memory(fails("shape mismatch"))


def test_times_of_steps_are_summed_up() -> None:
    told = steps.summary([steps.Step(0.1 * n, 0.2 * n, 0.0, 12.4) for n in range(1, 11)], 330)
    assert told["step_seconds"] == pytest.approx(0.3 * 5.5)
    assert told["step_seconds_p90"] == pytest.approx(0.3 * 10)
    assert told["forward_seconds"] == pytest.approx(0.55)
    assert told["tokens_per_second"] == pytest.approx(200)


def test_results_of_another_form_are_refused(tmp_path: Path) -> None:
    told = results.begun(["bench"])
    assert results.faults(told) == []
    assert results.faults(told | {"extra": 1}) != []
    assert results.faults(told | {"schema": 2}) == ["schema 2 is not 1"]
    assert results.faults(told | {"cells": [{"stack": "plain"}]}) != []
    results.save(told, tmp_path)
    assert results.load(tmp_path) == told
    (tmp_path / results.FILE).write_text("{}")
    with pytest.raises(SystemExit, match="not of this benchmark"):
        results.load(tmp_path)


def test_the_command_line_needs_a_folder() -> None:
    told = bench_gpu.arguments(["--out", "x", "--tokens", "4096,1024", "--pico"])
    assert (told.tokens, told.pico, told.minutes, told.card) == ((1024, 4096), "dense", 9.0, "24GB")
    with pytest.raises(SystemExit):
        bench_gpu.arguments([])
