"""A card that held less than was promised: the lever to pull is computed, and pulling it helps."""

import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from finetune.data import Counts
from finetune.errors import DoesNotFit
from finetune.hardware import Hardware, wished
from finetune.plan import make_plan, out_of_memory
from finetune.plan.rescue import LEANER
from finetune.recipe import Recipe, load
from finetune.shape import read_shape

COUNTS = Counts(rows=100, held_out_rows=5, examples=100, held_out_examples=5)
SHAPE = read_shape("Qwen/Qwen3.6-27B", None)


def recipe(folder: Path, *words: str) -> Recipe:
    file = folder / "legal.yaml"
    file.write_text("base: Qwen/Qwen3.6-27B\ndata: {train: x.jsonl}\n")
    return load(file, words)


def refused(wishes: Recipe, hardware: Hardware) -> DoesNotFit:
    made = make_plan(wishes, SHAPE, hardware, COUNTS)
    return out_of_memory(
        made, wishes, SHAPE, hardware, COUNTS, where="(in a test)", command="finetune train legal.yaml"
    )


@pytest.mark.parametrize("gpu", ["rtx4090", "a10", "48GB", "h100"])
@pytest.mark.parametrize("length", [2048, 8192, 16384])
def test_the_fix_needs_as_much_less_as_it_should(gpu: str, length: int, tmp_path: Path) -> None:
    hardware = wished(gpu)
    before = make_plan(recipe(tmp_path, f"data.max_length={length}"), SHAPE, hardware, COUNTS)
    (problem,) = refused(recipe(tmp_path, f"data.max_length={length}"), hardware).problems
    words = re.findall(r"--set (\S+)", problem.fix)
    assert problem.fix == f"finetune train legal.yaml --set {words[0]}"
    after = make_plan(recipe(tmp_path, f"data.max_length={length}", *words), SHAPE, hardware, COUNTS)
    assert after.fits
    assert after.peak_bytes <= LEANER * before.peak_bytes
    assert f"{before.peak_bytes / 2**30:.1f} GiB of" in problem.why
    changed = [name for name, value in asdict(after.choices).items() if value != asdict(before.choices)[name]]
    assert changed
    assert all(f"{name} {asdict(after.choices)[name]}" in problem.why for name in changed)


def test_where_no_lever_is_left_a_shorter_recipe_is_proposed(tmp_path: Path) -> None:
    hardware = wished("rtx4090")
    longest = make_plan(recipe(tmp_path, "data.max_length=65536"), SHAPE, hardware, COUNTS).proposals[0]
    wishes = recipe(tmp_path, longest.removeprefix("--set "))
    before = make_plan(wishes, SHAPE, hardware, COUNTS)
    assert before.fits
    (problem,) = refused(wishes, hardware).problems
    assert "no lever is left to pull" in problem.why
    for fix in problem.fix.split(" or "):
        after = make_plan(recipe(tmp_path, *re.findall(r"--set (\S+)", fix)), SHAPE, hardware, COUNTS)
        assert after.fits
        assert after.peak_bytes <= LEANER * before.peak_bytes


def test_a_long_held_out_example_is_counted_where_it_is_more_than_a_step(tmp_path: Path) -> None:
    wishes = recipe(tmp_path, "data.max_length=8192", "train.batch_size=1")
    short = make_plan(
        wishes, SHAPE, wished("rtx4090"), replace(COUNTS, tokens=50_000, longest=512, longest_held_out=512)
    )
    long = make_plan(
        wishes, SHAPE, wished("rtx4090"), replace(COUNTS, tokens=50_000, longest=512, longest_held_out=8192)
    )
    assert "held-out example: scored" not in short.moments
    assert long.peak == "held-out example: scored"
    assert long.peak_bytes > short.peak_bytes
    assert sum(long.parts.values()) == long.peak_bytes
