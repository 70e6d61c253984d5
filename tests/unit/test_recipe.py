"""A recipe is what its file says: read, written out, read again, and never changed by what reads it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from finetune.data import count_rows, read_rows
from finetune.hardware import Hardware, wished, with_nodes
from finetune.plan import make_plan
from finetune.recipe import FAMILIES, Parallel, Recipe, dump, json_schema, keys, load
from finetune.recipe.foreign_keys import NOBODYS, SAME
from finetune.recipe.listing import sections
from finetune.recipe.proposals import propose
from finetune.recipe.yaml_places import parse, scalar
from finetune.shape import read_shape
from finetune.shipped import trade_of
from finetune.shipped import trades as trades_of

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "recipes").glob("*.yaml"))
OF_TRADES = [file for file in SHIPPED if trade_of(file.stem) == file.stem]
GPU = Hardware(("NVIDIA GeForce RTX 4090",), 24 * 2**30, 2**36)

GOOD = "base: Qwen/Qwen3.6-27B\ndata: {train: rows.jsonl}\n"

FROZEN_KEYS = [
    "name",
    "base",
    "base_path",
    "revision",
    "method",
    "system",
    "data.train",
    "data.eval",
    "data.columns",
    "data.group",
    "data.max_length",
    "data.too_long",
    "data.thinking",
    "data.preserve_thinking",
    "data.packing",
    "lora.rank",
    "lora.alpha",
    "lora.dropout",
    "lora.targets",
    "lora.expert_rank",
    "lora.router",
    "lora.dora",
    "lora.rslora",
    "train.epochs",
    "train.max_steps",
    "train.batch_size",
    "train.learning_rate",
    "train.schedule",
    "train.warmup",
    "train.weight_decay",
    "train.max_grad_norm",
    "train.router_aux_loss_coef",
    "train.seed",
    "train.save_every",
    "train.keep_checkpoints",
    "train.report_to",
    "memory.spare",
    "memory.embeddings",
    "memory.head",
    "memory.checkpoints",
    "memory.recompute",
    "memory.optimizer",
    "memory.micro_batch",
    "parallel.zero",
    "parallel.expert",
    "evaluate.tasks",
    "evaluate.fail_if",
    "card.license",
    "card.intended_use",
    "card.limits",
    "publish.repo",
    "publish.private",
    "publish.endpoint",
]


def written(folder: Path, text: str = GOOD, name: str = "recipe.yaml") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_the_keys_are_the_frozen_ones_and_at_most_sixty() -> None:
    assert keys() == FROZEN_KEYS
    assert len(keys()) <= 60


def test_every_key_has_a_text_for_its_reader() -> None:
    told = json_schema()
    for key in keys():
        section, _, name = key.rpartition(".")
        properties = told["$defs"][section.title()]["properties"] if section else told["properties"]
        assert properties[name]["description"].endswith(".")


def test_the_shipped_schema_is_the_one_that_the_command_prints() -> None:
    assert json.loads((ROOT / "recipes" / "recipe.schema.json").read_text()) == json_schema()


def test_foreign_keys_lead_to_keys_of_ours_and_are_none_themselves() -> None:
    assert set(SAME.values()) <= set(keys())
    leaves = {key.rpartition(".")[2] for key in keys()}
    assert not (SAME.keys() | NOBODYS.keys()) & leaves
    assert not SAME.keys() & NOBODYS.keys()


# Shipped recipes


def test_there_is_a_recipe_for_each_trade_and_others_of_the_same_rows() -> None:
    trades = {"code", "demo", "finance", "legal", "manufacturing", "medical", "support"}
    assert {file.stem for file in OF_TRADES} == set(trades_of()) == trades
    assert {file.stem for file in SHIPPED} - trades == {"legal-moe", "legal-moe-8gpu", "legal-cluster"}
    assert all(trade_of(file.stem) in trades for file in SHIPPED)


@pytest.mark.parametrize(
    ("name", "hardware", "zero", "experts"),
    [
        ("legal-moe", wished("24GB"), 0, True),
        ("legal-moe-8gpu", wished("rtx4090x8"), None, True),
        ("legal-moe-8gpu", wished("h100x8"), 0, True),
        ("legal-cluster", with_nodes(wished("rtx4090x8"), 2), 1, False),
    ],
)
def test_a_recipe_for_other_machines_plans_for_them(
    name: str, hardware: Hardware, zero: int | None, experts: bool
) -> None:
    recipe = load(ROOT / "recipes" / f"{name}.yaml")
    assert len(read_rows(recipe.data.train)) == 24
    assert recipe.train.batch_size % hardware.processes == 0
    plan = make_plan(recipe, read_shape(recipe.base, None), hardware, count_rows(recipe))
    assert (plan.fits, plan.expert_parallel, plan.processes) == (True, 1, hardware.processes)
    assert zero is None or plan.zero == zero
    assert (plan.expert_rank > 0) == experts
    assert recipe.parallel == Parallel(), "the plan chooses"


@pytest.mark.parametrize("file", OF_TRADES, ids=lambda file: file.stem)
def test_a_shipped_recipe_loads_has_valid_rows_and_plans(file: Path) -> None:
    recipe = load(file)
    rows = read_rows(recipe.data.train)
    assert len(rows) == 24 or file.stem == "demo"
    assert all(not row.unread for row in rows)
    counts = dataclasses.replace(count_rows(recipe), longest=512)
    shape = read_shape("Qwen/Qwen3.6-27B", None)
    plan = make_plan(load(file, ["base=Qwen/Qwen3.6-27B"]), shape, GPU, counts)
    assert (plan.rank, plan.trainable_parameters) == (16, 108_789_760)
    assert plan.steps == math.ceil(recipe.train.epochs * math.ceil(counts.examples / recipe.train.batch_size))


# Reading


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("2.", 2.0),
        (".5", 0.5),
        ("012", 12),
        ("+3", 3),
        ("-0", 0),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("12:30:00", "12:30:00"),
        ("2026-01-31", "2026-01-31"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        (".inf", ".inf"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("NULL", None),
        ("9" * 30, "9" * 30),
    ],
)
def test_plain_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)
    assert parse(f"k: {text}", "").value == {"k": value}


def test_a_recipe_remembers_where_each_key_was_written(tmp_path: Path) -> None:
    file = written(tmp_path, "# head\nbase: Qwen/Qwen3.6-27B\ndata:\n  train: a.jsonl\nlora:\n  targets:\n    - mlp\n")
    recipe = load(file, ["train.seed=7"])
    assert recipe.where("data.train") == f"{file}:4  data.train"
    assert recipe.where("data.max_length") == f"{file}:3  data"
    assert recipe.where("lora.targets") == f"{file}:6  lora.targets"
    assert recipe.where("train.seed") == "--set train.seed=7"
    assert recipe.where("train.epochs") == f"{file}:1"
    assert recipe.line("train.seed", 8) == "--set train.seed=8"
    assert recipe.line("data.max_length", 99) == "data.max_length: 99"


def test_a_recipe_is_frozen(tmp_path: Path) -> None:
    recipe = load(written(tmp_path))
    with pytest.raises(ValidationError, match="frozen"):
        recipe.lora.rank = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("legal.yaml", "legal"),
        ("my recipe (2).yaml", "my-recipe-2"),
        ("合同.yaml", "run"),
        (f"{'x' * 90}.yaml", "x" * 64),
    ],
)
def test_the_files_name_is_the_runs_name(file: str, name: str, tmp_path: Path) -> None:
    assert load(written(tmp_path, name=file)).name == name


# Paths


def test_paths_of_the_file_are_relative_to_it_and_those_of_overrides_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "base: ../bases/toy\nbase_path: ./here\ndata: {train: ../rows.jsonl, eval: held/out.jsonl}\n"
    file = written(tmp_path, text, "recipes/a.yaml")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    recipe = load("../recipes/a.yaml")
    assert recipe.base == str(tmp_path / "bases" / "toy")
    assert recipe.base_path == tmp_path / "recipes" / "here"
    assert recipe.data.train == tmp_path / "rows.jsonl"
    assert recipe.data.eval == tmp_path / "recipes" / "held" / "out.jsonl"
    recipe = load(file, ["data.train=rows.jsonl", "base=./toy", "data.eval=/data/held.jsonl", "base_path=~/toy"])
    assert recipe.data.train == tmp_path / "elsewhere" / "rows.jsonl"
    assert recipe.base == str(tmp_path / "elsewhere" / "toy")
    assert recipe.data.eval == Path("/data/held.jsonl")
    assert recipe.base_path == Path.home() / "toy"
    assert (recipe.typed("data.train"), load(file).typed("data.train")) == ("rows.jsonl", "../rows.jsonl")


def test_a_base_that_is_a_folder_beside_the_recipe_needs_no_dot(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    assert load(written(tmp_path, "base: toy\ndata: {train: a.jsonl}\n")).base == str(tmp_path / "toy")
    assert load(written(tmp_path)).base == "Qwen/Qwen3.6-27B"


@pytest.mark.parametrize("base", ["~nobody-of-this-name/toy", "./" + "x" * 300])
def test_an_odd_path_is_left_to_whoever_opens_it(base: str, tmp_path: Path) -> None:
    recipe = load(written(tmp_path, f"base: {base}\ndata: {{train: {base}}}\n"))
    assert recipe.base == str(recipe.data.train) == os.path.abspath(tmp_path / base)


# Overrides


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("train.learning_rate=1e-4", "train.learning_rate", 1e-4),
        ("train.seed=012", "train.seed", 12),
        ("lora.alpha=null", "lora.alpha", None),
        ("lora.targets=[mlp, attention]", "lora.targets", ("mlp", "attention")),
        ("system=You are brief: one line # not a comment", "system", "You are brief: one line # not a comment"),
        ('system="1e-4"', "system", "1e-4"),
        ("data.eval=0", "data.eval", 0),
        ("data.preserve_thinking=true", "data.preserve_thinking", True),
    ],
)
def test_an_override_is_a_yaml_value_without_its_punctuation(word: str, key: str, value: Any, tmp_path: Path) -> None:
    recipe: Any = load(written(tmp_path), [word])
    for part in key.split("."):
        recipe = getattr(recipe, part)
    assert recipe == value


def test_the_last_override_of_a_key_counts_and_mends_what_the_file_has_wrong(tmp_path: Path) -> None:
    file = written(tmp_path, GOOD + "lora: {rank: 0}\ntrain:\n")
    recipe = load(file, ["lora.rank=8", "lora.rank=4", "train.epochs=1"])
    assert (recipe.lora.rank, recipe.train.epochs) == (4, 1)


# Writing

printable = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]), max_size=40)
awkward = st.sampled_from(
    ["1e5", "08", "no", "null", "~", "- x", "a: b", "#", "'", '"', "12:30:00", "1_0", "0.1", "<<"]
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
    | st.sampled_from(["1e5", "08", "null", "0.5"]),
    system=st.none() | printable | awkward | st.text("ab \n", max_size=2000),
    revision=st.sampled_from([None, "1e5", "12345678", "main", "6a9e13bd6fc8f0983b9b99948120bc37f49c13e9"]),
    train=st.sampled_from(["a.jsonl", "../x/b.jsonl", "/abs/c.jsonl", "1e5", "~x", "with blank.jsonl", "中文.jsonl"]),
    held_out=st.floats(0, 0.5) | st.sampled_from([0, "held.jsonl"]),
    rate=st.floats(1e-12, 1e3),
    targets=st.lists(st.sampled_from(FAMILIES), min_size=1),
    base=st.sampled_from(["Qwen/Qwen3.6-27B", "./toy", "../~toy", "/abs/toy"]),
)
def test_what_is_written_out_loads_as_the_same_recipe(
    tmp_path_factory: pytest.TempPathFactory, targets: list[str], held_out: Any, rate: float, train: str, **top: Any
) -> None:
    folder = tmp_path_factory.getbasetemp() / "dumped"
    values = {
        **top,
        "data": {"train": f"./{train}" if train.startswith("~") else train, "eval": held_out},
        "lora": {"targets": targets},
        "train": {"learning_rate": rate},
    }
    recipe = load(written(folder, json.dumps(values), "here/a.yaml"))
    text = dump(recipe, folder / "runs" / "a-0001")
    again = load(written(folder, text, "runs/a-0001/recipe.yaml"))
    assert again.model_dump() == recipe.model_dump()
    assert set(yaml.safe_load(text)) == set(Recipe.model_fields)
    assert dump(again, folder / "runs" / "a-0001") == text


# Proposals


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    key=st.sampled_from([*FROZEN_KEYS, *sections()]),
    value=st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=9)
    | st.lists(st.integers() | st.text("abc", max_size=3), max_size=3),
)
def test_whatever_stands_there_a_value_is_proposed_that_loads(
    key: str, value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    told = parse(propose(key, value), "")
    assert not told.problems
    values: dict[str, Any] = {"base": "Qwen/Qwen3.6-27B", "data": {"train": "rows.jsonl"}}
    section, _, name = key.rpartition(".")
    (values.setdefault(section, {}) if section else values)[name] = told.value
    load(written(tmp_path_factory.getbasetemp(), json.dumps(values)))
