"""What was changed behind a run's back is refused by name; never does a run go on as another one in silence."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial import in_process
from trial.small_run import write_recipe

from finetune.errors import ArtifactError, Interrupted, OutsideError, RecipeError
from finetune.recipe import keys, load
from finetune.run import Run, checkpoint
from finetune.shape import fingerprint
from finetune.shards import read_header
from finetune.train.contract import LATER, check_unedited

TRAINED_BY = [key for key in keys() if key.split(".")[0] not in LATER]
"""Keys that training follows from."""

OTHER: dict[str, Any] = {
    "name": "other",
    "base": "../../other",
    "base_path": "../../base",
    "revision": "main",
    "method": "lora",
    "system": "Be brief.",
    "data.train": "../../other.jsonl",
    "data.eval": 0.1,
    "data.columns": {"prompt": "question", "completion": "answer"},
    "data.group": "customer",
    "data.max_length": 1024,
    "data.too_long": "truncate",
    "data.thinking": "never",
    "data.preserve_thinking": True,
    "data.packing": True,
    "lora.rank": 8,
    "lora.alpha": 4.0,
    "lora.dropout": 0.0,
    "lora.targets": ["mlp"],
    "lora.expert_rank": 2,
    "lora.router": True,
    "lora.dora": True,
    "lora.rslora": True,
    "train.epochs": 4.0,
    "train.max_steps": 100,
    "train.batch_size": 4,
    "train.learning_rate": 0.004,
    "train.schedule": "linear",
    "train.warmup": 0.1,
    "train.weight_decay": 0.01,
    "train.max_grad_norm": 2.0,
    "train.router_aux_loss_coef": 0.01,
    "train.seed": 43,
    "train.save_every": 1,
    "train.keep_checkpoints": 5,
    "train.report_to": ["tensorboard"],
    "memory.spare": 1.5,
    "memory.embeddings": "host",
    "memory.head": "nf4",
    "memory.checkpoints": "host",
    "memory.recompute": "halves",
    "memory.optimizer": "adamw_8bit",
    "memory.micro_batch": 4,
    "parallel.zero": 1,
    "parallel.expert": 2,
}
"""For each key a value that the run was not begun with. Whoever adds a key to the recipe adds it here."""


@pytest.fixture(scope="module")
def world(pico_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, rows and a recipe in one folder, and a run that was stopped after step 3."""
    folder = tmp_path_factory.mktemp("contract")
    shutil.copytree(pico_base, folder / "base")
    recipe = write_recipe(folder, Path("base"), long_row=False)
    run, dataset = in_process.begin(recipe, folder / "runs")
    with pytest.raises(Interrupted):
        in_process.train(run, dataset, stop_after=2)
    return folder


@pytest.fixture
def run(world: Path, tmp_path: Path) -> Run:
    """The stopped run in a world of this test's own."""
    return Run(Path(shutil.copytree(world, tmp_path / "world")) / "runs" / "small-0001")


def refusal(run: Run) -> str:
    with pytest.raises(ArtifactError) as told:
        in_process.train(run)
    assert told.value.exit_code == 6
    assert not run.adapter.exists()
    assert checkpoint.newest_verified(run.checkpoints).step == 3, "the run is as it was"
    return str(told.value)


@pytest.mark.parametrize("key", TRAINED_BY)
def test_a_changed_key_of_the_recipe_is_refused_with_what_it_was(run: Run, key: str) -> None:
    values = yaml.safe_load(run.recipe.read_text())
    section, _, name = key.rpartition(".")
    inner = values[section] if section else values
    before, inner[name] = inner[name], OTHER[key]
    run.recipe.write_text(yaml.safe_dump(values, sort_keys=False))
    line = next(
        n for n, text in enumerate(run.recipe.read_text().splitlines(), 1) if text.strip().startswith(f"{name}:")
    )
    told = refusal(run)
    assert told.count("error: ") == 1
    assert told.startswith(f"error: {key} of the run's recipe changed\n  where {run.recipe}:{line}  {key}\n")
    assert f"  fix   {key}: {json.dumps(before)}   # or begin a new run: finetune train {run.recipe}" in told


def test_every_key_of_the_recipe_is_tried() -> None:
    assert list(OTHER) == TRAINED_BY


def test_several_changed_keys_are_told_at_once(run: Run) -> None:
    text = run.recipe.read_text().replace("rank: 4", "rank: 8").replace("seed: 42", "seed: 7")
    run.recipe.write_text(text)
    told = refusal(run)
    assert "lora.rank of the run's recipe changed" in told
    assert "train.seed of the run's recipe changed" in told


def test_a_key_that_does_not_exist_is_refused_as_everywhere(run: Run) -> None:
    run.recipe.write_text(run.recipe.read_text() + "packing: true\n")
    with pytest.raises(RecipeError, match="no key packing"):
        in_process.train(run)


def test_a_comment_in_the_runs_recipe_changes_nothing(run: Run) -> None:
    run.recipe.write_text("# mine\n" + run.recipe.read_text().replace("rank: 4", "rank:   4  # small"))
    check_unedited(run, load(run.recipe))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"steps": 1}'])
def test_a_plan_that_is_no_plan_is_refused(run: Run, text: str) -> None:
    run.plan.write_text(text)
    assert refusal(run).startswith("error: the plan changed since the run began")


def test_each_field_of_the_plan_is_guarded(run: Run) -> None:
    plan = json.loads(run.plan.read_text())
    recipe = load(run.recipe)
    for field, value in plan.items():
        run.plan.write_text(json.dumps({**plan, field: [value]}, indent=2))
        with pytest.raises(ArtifactError, match="the plan changed since the run began"):
            check_unedited(run, recipe)


def change_a_word(folder: Path) -> None:
    replace_in(folder / "train.jsonl", "Row 3:", "Row 33:")


def add_a_row(folder: Path) -> None:
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"prompt": "And the pump?", "completion": "It was closed."}\n')


def swap_two_rows(folder: Path) -> None:
    first, second, *rest = (folder / "train.jsonl").read_text().splitlines(keepends=True)
    (folder / "train.jsonl").write_text("".join([second, first, *rest]))


def move_a_word_from_the_answer_to_the_question(folder: Path) -> None:
    """The ids may stay nearly the same; what is learnt of them does not."""
    replace_in(folder / "train.jsonl", '", "completion": "The', ' The", "completion": "')


def change_the_held_out(folder: Path) -> None:
    replace_in(folder / "held_out.jsonl", "Row 1000", "Row 2000")


def change_the_template(folder: Path) -> None:
    replace_in(folder / "base" / "chat_template.jinja", "", "{#- a comment #}")


def change_the_tokenizer(folder: Path) -> None:
    with (folder / "base" / "tokenizer.json").open("a") as file:
        file.write("\n")


def change_the_config(folder: Path) -> None:
    replace_in(folder / "base" / "config.json", "10000000", "20000000")


CHANGES: dict[Callable[[Path], None], str] = {
    change_a_word: "the rows, or how they are rendered",
    add_a_row: "the rows, or how they are rendered",
    swap_two_rows: "the rows, or how they are rendered",
    move_a_word_from_the_answer_to_the_question: "the rows, or how they are rendered",
    change_the_held_out: "the rows, or how they are rendered",
    change_the_template: "the base's chat template",
    change_the_tokenizer: "the base's tokenizer",
    change_the_config: "the base's weights",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_the_run_reads_is_refused_by_name_once_it_changed(run: Run, change: Callable[[Path], None]) -> None:
    change(run.path.parents[1])
    assert f"error: {CHANGES[change]} changed since the run began" in refusal(run)


@pytest.mark.parametrize(("weight", "bit"), [("mlp.up_proj", 15), ("layernorm", 0)])
def test_one_bit_of_the_base_anywhere_is_refused(run: Run, weight: str, bit: int) -> None:
    """The sign of a weight that is held in 4 bits, and the last bit of one that is not; both between the samples."""
    base = run.path.parents[1] / "base"
    before = fingerprint(base)
    flip_between_the_samples(base, weight, bit)
    assert fingerprint(base) == before, "the samples do not show it; the weights in memory do"
    assert "error: the base's weights changed since the run began" in refusal(run)


def test_other_packages_are_refused_with_the_command_that_puts_them_back(run: Run) -> None:
    begun = json.loads(run.manifest.read_text())
    begun["contract"]["versions"]["peft"] = "0.0.1"
    run.manifest.write_text(json.dumps(begun))
    told = refusal(run)
    assert "error: the packages changed since the run began" in told
    assert "  fix   pip install peft==0.0.1" in told


def test_another_device_is_refused(run: Run) -> None:
    begun = json.loads(run.manifest.read_text())
    begun["contract"]["device"] = "NVIDIA H100"
    run.manifest.write_text(json.dumps(begun))
    assert "error: the device changed since the run began" in refusal(run)


def test_a_tracker_that_was_uninstalled_is_named_before_anything_is_loaded(world: Path, tmp_path: Path) -> None:
    with pytest.raises(OutsideError, match="trackio is not installed"):
        in_process.begin(world / "small.yaml", tmp_path / "runs", "train.report_to=[trackio]")
    assert not (tmp_path / "runs").exists()


def replace_in(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def flip_between_the_samples(base: Path, part: str, bit: int) -> None:
    """Flips a bit of the first bfloat16 of such a weight that the base's fingerprint does not sample."""
    file, at = next(unsampled(base, part))
    data = bytearray(file.read_bytes())
    data[at + bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def unsampled(base: Path, part: str) -> Iterator[tuple[Path, int]]:
    for file in sorted(base.glob("*.safetensors")):
        data = file.read_bytes()
        header_bytes = 8 + int.from_bytes(data[:8], "little")
        starts = [len(data) * sample // 16 for sample in range(16)]
        for name, entry in read_header(file).items():
            if part in name and "visual" not in name and "mtp" not in name:
                assert entry["dtype"] == "BF16"
                for at in range(*(header_bytes + offset for offset in entry["data_offsets"]), 2):
                    if not any(start - 2 < at < start + 4096 for start in starts):
                        yield file, at


def test_what_training_does_not_read_may_be_edited_in_a_run(run: Run) -> None:
    text = run.recipe.read_text()
    run.recipe.write_text(text.replace("intended_use: null", "intended_use: Answers about clauses."))
    assert run.recipe.read_text() != text
    check_unedited(run, load(run.recipe))
