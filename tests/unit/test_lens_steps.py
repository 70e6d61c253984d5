"""`finetune data look --step`: which examples an optimizer step has, and how they lie in it."""

from __future__ import annotations

import json
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from lensing import data_block, make_base, prepared
from typer.testing import CliRunner

from finetune.cli.app import app
from finetune.data import Dataset
from finetune.data.batches import num_steps, packs, rows_of_step, shuffled
from finetune.errors import RecipeError
from finetune.lens import step_of
from finetune.recipe import Recipe, load

ROWS = [{"prompt": f"{n}?" * (n + 1), "completion": "yes" * (3 * n + 1)} for n in range(9)]
PACKED = ("data.packing=true", "data.max_length=260", "train.batch_size=4", "train.epochs=2.0")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("byte-base"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def dataset(folder: Path, base: Path) -> Dataset:
    return prepared(folder, base, *PACKED, rows=ROWS)


@pytest.fixture
def wishes(dataset: Dataset, folder: Path) -> Recipe:
    return load(folder / "recipe.yaml", PACKED)


def here(folder: Path, base: Path, *words: str, wished: tuple[str, ...] = PACKED) -> str:
    """Runs the command in this process; gives what it prints, and raises what it raises."""
    sets = [word for wish in wished for word in ("--set", wish)]
    asked = ["data", "look", "recipe.yaml", "--tokenizer", str(base), *sets, *words]
    with chdir(folder):
        return CliRunner().invoke(app, asked, catch_exceptions=False).stdout


def test_the_order_is_written_in_stone() -> None:
    """A run that is resumed by a later version has to go on in the order in which it began."""
    assert shuffled(10, seed=42, epoch=0) == [7, 3, 2, 9, 6, 0, 1, 8, 4, 5]
    assert shuffled(10, seed=42, epoch=1) == [8, 1, 2, 7, 4, 6, 0, 5, 3, 9]
    assert shuffled(10, seed=43, epoch=0) == [0, 5, 9, 6, 1, 7, 4, 8, 3, 2]


def test_an_order_is_as_good_as_chance() -> None:
    """Each example stands at each place as often as chance has it: chi-square of 19 x 19 degrees, five deviations."""
    count, draws = 20, 4000
    seen = [[0] * count for _ in range(count)]
    for seed in range(draws):
        order = shuffled(count, seed=seed, epoch=0)
        assert sorted(order) == list(range(count))
        for place, row in enumerate(order):
            seen[row][place] += 1
    expected, freedom = draws / count, (count - 1) ** 2
    chi_square = sum((n - expected) ** 2 / expected for line in seen for n in line)
    assert abs(chi_square - freedom) < 5 * (2 * freedom) ** 0.5


def test_the_steps_of_an_epoch_share_its_examples_out(dataset: Dataset, wishes: Recipe) -> None:
    assert num_steps(wishes, 9) == (3, 6)
    steps = [rows_of_step(9, step, batch_size=4, seed=wishes.train.seed) for step in range(1, 7)]
    assert [len(rows) for rows in steps] == [4, 4, 1, 4, 4, 1]
    for epoch in (0, 1):
        rows = [row for step in steps[3 * epoch : 3 * epoch + 3] for row in step]
        assert rows == shuffled(9, seed=wishes.train.seed, epoch=epoch)
    found = step_of(dataset, wishes, 5)
    assert (found.number, found.of, found.epoch) == (5, 6, 2)
    assert sorted(shown.number - 1 for shown in found.examples) == sorted(steps[4])
    assert all(shown.example == dataset.train[shown.number - 1] for shown in found.examples)


def test_packs_are_those_of_training_and_side_by_side_the_longest_comes_first(
    dataset: Dataset, folder: Path, wishes: Recipe
) -> None:
    rows = rows_of_step(9, 1, batch_size=4, seed=wishes.train.seed)
    laid = packs([len(dataset.train[row]) for row in rows], 260)
    assert len(laid) > 1
    assert [[shown.number - 1 for shown in pack] for pack in step_of(dataset, wishes, 1).packs] == [
        [rows[at] for at in pack] for pack in laid
    ]
    alone = step_of(dataset, load(folder / "recipe.yaml", ("train.batch_size=4",)), 1)
    assert not alone.packed
    assert alone.examples == sorted(alone.examples, key=lambda shown: -shown.num_tokens)


def test_a_terminal_shows_each_border_once(dataset: Dataset, folder: Path, base: Path, wishes: Recipe) -> None:
    step = step_of(dataset, wishes, 1)
    told = here(folder, base, "--step", "1")
    assert f"step 1 of 6, epoch 1: 4 examples end to end in {len(step.packs)} packs of at most 260 tokens" in told
    lines = told.splitlines()
    heads = [line.split(" ═")[0] for line in lines if line.startswith("══")]
    assert heads == [f"══ pack {n} of {len(step.packs)}" for n in range(1, len(step.packs) + 1)]
    borders = [int(line.split("token ")[1].split(",")[0]) for line in lines if line.startswith("┄┄ border")]
    assert borders == [
        1 + sum(len(shown.example) for shown in pack[:at]) for pack in step.packs for at in range(1, len(pack))
    ]
    padded = here(folder, base, "--step", "1", wished=("train.batch_size=4",))
    assert "step 1 of 6, epoch 1: 4 examples side by side, longest first" in padded
    assert "border" not in padded


def test_programs_and_the_page_get_the_same_packs(dataset: Dataset, folder: Path, base: Path, wishes: Recipe) -> None:
    step = step_of(dataset, wishes, 2)
    told = json.loads(here(folder, base, "--step", "2", "--json"))
    assert (told["step"], told["of"], told["epoch"]) == (2, 6, 1)
    shown = [[ids_of(example) for example in pack] for pack in told["packs"]]
    assert shown == [[shown.example.ids for shown in pack] for pack in step.packs]
    here(folder, base, "--step", "2", "--html", "step.html")
    block = data_block((folder / "step.html").read_text())
    assert (block["step"], block["packs"]) == (2, [len(pack) for pack in step.packs])
    assert block["rows"] == [shown.number for shown in step.examples]


def ids_of(example: dict[str, Any]) -> list[int]:
    return [i for each in example["stretches"] for cell in each["cells"] for i in cell["ids"]]


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (("--step", "7"), "--step 6"),
        (("--step", "1", "--row", "1"), "leave out --step"),
        (("--step", "1", "--count", "2"), "leave out --count"),
        (("--step", "1", "--side", "held-out"), "leave out --side"),
    ],
)
def test_a_step_that_is_not_there_is_told(words: tuple[str, ...], fix: str, folder: Path, base: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        here(folder, base, *words)
    assert caught.value.problems[0].fix == fix
