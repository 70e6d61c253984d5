"""What people get wrong in a recipe: each mistake has a place, a rule and a cure, and the cure cures."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from finetune.errors import Problem, RecipeError
from finetune.recipe import Source, load, yaml_places
from finetune.recipe.listing import keys
from finetune.recipe.proposals import propose

BASE = "base: Qwen/Qwen3.6-27B\n"
GOOD = BASE + "data: {train: rows.jsonl}\n"
SECRET = "hf_" + "a" * 34


class Wrong(NamedTuple):
    """A recipe and its only problem."""

    name: str
    text: str
    where: str
    """`line` or `line  key`."""
    fix: str
    cures: bool = True
    """Whether the fix can be followed to the letter, without a choice of the user's."""


DELETE = "delete the line; finetune recipe schema lists the keys"
REVOKE = "delete it here, revoke it where it was made, and log in instead: hf auth login"
CLOSE = "close the quote or the bracket that is opened in this line"

ONE_PROBLEM = [
    # not YAML
    Wrong("a tab", BASE + "data:\n\ttrain: a.jsonl\n", "3", "replace the tab by spaces:   train: a.jsonl"),
    Wrong(
        "no space after a colon",
        BASE + "data:\n  train:a.jsonl\n  max_length: 512\n",
        "3",
        "put a space after the colon: train: a.jsonl",
    ),
    Wrong(
        "no space after the first colon",
        "base:Qwen/Qwen3.6-27B\ndata: {train: a.jsonl}\n",
        "1",
        "put a space after the colon: base: Qwen/Qwen3.6-27B",
    ),
    Wrong("a colon in text", GOOD + "system: You: be brief\n", "3", 'system: "You: be brief"'),
    Wrong("an at sign", GOOD + "system: @legal answers\n", "3", 'system: "@legal answers"'),
    Wrong(
        "indented too far",
        BASE + "data:\n  train: a.jsonl\n   max_length: 512\n",
        "4",
        "indent it as the line above:   max_length: 512",
    ),
    Wrong("an open quote", GOOD + 'system: "You are\ntrain: {epochs: 1}\n', "3", CLOSE, cures=False),
    Wrong("an open bracket", BASE + "data: {train: a.jsonl\nlora:\n  rank: 8\n", "2", CLOSE, cures=False),
    Wrong("a NUL byte", GOOD + "system: a\0b\n", "3", "delete that character"),
    # YAML that a recipe does without
    Wrong("a key twice", GOOD + "train:\n  epochs: 1\n  seed: 1\n  epochs: 2\n", "6  train.epochs", "delete line 6"),
    Wrong("an anchor", BASE + "data: &d\n  train: a.jsonl\n", "2  data", "delete &d"),
    Wrong(
        "an unknown alias",
        GOOD + "lora:\n  <<: *defaults\n",
        "4  lora.<<",
        "write out what *defaults stands for",
        cures=False,
    ),
    Wrong(
        "a tag that would run code",
        GOOD + 'system: !!python/object/apply:os.system ["id"]\n',
        "3  system",
        "delete !!python/object/apply:os.system; write a plain value",
        cures=False,
    ),
    Wrong(
        "two documents",
        GOOD + "---\n" + GOOD,
        "3",
        "keep one recipe in one file: end it before line 3",
    ),
    Wrong("nested for ever", GOOD + f"lora: {'[' * 5000}{']' * 5000}\n", "3", "a recipe has two levels", False),
    Wrong("a list for a key", GOOD + "? [a, b]\n: 3\n", "3", "write `key: value`", cures=False),
    Wrong("half a character", GOOD + 'system: "a\\ud800"\n', "3  system", "delete that character", cures=False),
    # keys
    Wrong("misspelt", GOOD + "lora:\n  rnak: 8\n", "4  lora.rnak", "lora.rank: 8"),
    Wrong("at the top", GOOD + "learning_rate: 1e-4\n", "3  learning_rate", "train.learning_rate: 0.0001"),
    Wrong("in another section", GOOD + "lora:\n  epochs: 3\n", "4  lora.epochs", "train.epochs: 3"),
    Wrong("dotted", BASE + "data.train: a.jsonl\n", "2  data.train", "data: {train: a.jsonl}"),
    Wrong("a section misspelt", GOOD + "training:\n  epochs: 3\n", "3  training", "train: {epochs: 3}"),
    Wrong("camel case", GOOD + "train: {learningRate: 1e-4}\n", "3  train.learningRate", "train.learning_rate: 0.0001"),
    Wrong("a dash", GOOD + "train: {batch-size: 8}\n", "3  train.batch-size", "train.batch_size: 8"),
    Wrong("axolotl's rank", GOOD + "lora_r: 32\n", "3  lora_r", "lora.rank: 32"),
    Wrong("axolotl's length", GOOD + "sequence_len: 4096\n", "3  sequence_len", "data.max_length: 4096"),
    Wrong("axolotl's 4 bits", GOOD + "load_in_4bit: true\n", "3  load_in_4bit", "method: qlora"),
    Wrong("LLaMA-Factory's length", GOOD + "cutoff_len: 2048\n", "3  cutoff_len", "data.max_length: 2048"),
    Wrong(
        "LLaMA-Factory's targets",
        GOOD + "lora_target: all\n",
        "3  lora_target",
        "lora.targets: [linear_attention, attention, mlp, experts]",
    ),
    Wrong("accumulation", GOOD + "gradient_accumulation_steps: 8\n", "3  gradient_accumulation_steps", DELETE),
    Wrong("bf16", GOOD + "bf16: true\n", "3  bf16", DELETE),
    Wrong("nobody's key", GOOD + "frobnicate: 3\n", "3  frobnicate", DELETE),
    # missing and empty
    Wrong("no base", "data: {train: a.jsonl}\n", "1", "base: Qwen/Qwen3.6-27B"),
    Wrong("no data", BASE, "1", "data: {train: data/train.jsonl}"),
    Wrong("no rows", BASE + "data:\n  max_length: 512\n", "2  data", "data.train: data/train.jsonl"),
    Wrong("an empty value", GOOD + "train:\n  epochs:\n", "4  train.epochs", "train.epochs: 2.0"),
    Wrong("an empty section", GOOD + "lora:\n", "3  lora", "lora: {}"),
    Wrong("an empty path", BASE + "data: {train: ''}\n", "2  data.train", "data.train: data/train.jsonl"),
    Wrong(
        "a list at the top", f"- {BASE}- data: {{}}\n", "1", "finetune init legal   # writes one to start from", False
    ),
    Wrong("text", "Qwen3.6, please\n", "1", "finetune init legal   # writes one to start from", cures=False),
    # wrong types
    Wrong("a number in quotes", GOOD + 'lora: {rank: "16"}\n', "3  lora.rank", "lora.rank: 16"),
    Wrong(
        "1e-4 in quotes",
        GOOD + "train: {learning_rate: '1e-4'}\n",
        "3  train.learning_rate",
        "train.learning_rate: 0.0001",
    ),
    Wrong("a decimal comma", GOOD + "train:\n  warmup: 0,1\n", "4  train.warmup", "train.warmup: 0.1"),
    Wrong(
        "thousands",
        BASE + "data:\n  train: a.jsonl\n  max_length: 4,096\n",
        "4  data.max_length",
        "data.max_length: 4096",
    ),
    Wrong("4_096", BASE + "data: {train: a.jsonl, max_length: 4_096}\n", "2  data.max_length", "data.max_length: 4096"),
    Wrong("a fraction of a rank", GOOD + "lora: {rank: 16.0}\n", "3  lora.rank", "lora.rank: 16"),
    Wrong("true for a number", GOOD + "lora: {rank: true}\n", "3  lora.rank", "lora.rank: 16"),
    Wrong(
        "yes",
        BASE + "data: {train: a.jsonl, preserve_thinking: yes}\n",
        "2  data.preserve_thinking",
        "data.preserve_thinking: true",
    ),
    Wrong(
        "two rates",
        GOOD + "train: {learning_rate: [1e-4, 2e-4]}\n",
        "3  train.learning_rate",
        "train.learning_rate: 0.0001",
    ),
    Wrong("no files", BASE + "data: {train: []}\n", "2  data.train", "data.train: data/train.jsonl"),
    Wrong("a word for a list", GOOD + "lora: {targets: attention}\n", "3  lora.targets", "lora.targets: [attention]"),
    Wrong("a path for a section", BASE + "data: a.jsonl\n", "2  data", "data: {train: a.jsonl}"),
    Wrong("dashes in a section", GOOD + "lora:\n  - rank: 8\n  - alpha: 16\n", "3  lora", "lora: {rank: 8, alpha: 16}"),
    Wrong("a commit of digits", GOOD + "revision: 12345678\n", "3  revision", 'revision: "12345678"'),
    Wrong("a commit with an e", GOOD + "revision: 12e4567\n", "3  revision", 'revision: "12e4567"'),
    # out of bounds
    Wrong("rank 0", GOOD + "lora:\n  rank: 0\n", "4  lora.rank", "lora.rank: 16"),
    Wrong("too short", BASE + "data: {train: a.jsonl, max_length: 8}\n", "2  data.max_length", "data.max_length: 16"),
    Wrong(
        "too long",
        BASE + "data: {train: a.jsonl, max_length: 9999999}\n",
        "2  data.max_length",
        "data.max_length: 1048576",
    ),
    Wrong("epochs without end", GOOD + "train: {epochs: 1e9}\n", "3  train.epochs", "train.epochs: 10000"),
    Wrong("rank 4096", GOOD + "lora: {rank: 4096}\n", "3  lora.rank", "lora.rank: 1024"),
    Wrong(
        "a negative rate",
        GOOD + "train: {learning_rate: -1e-4}\n",
        "3  train.learning_rate",
        "train.learning_rate: 0.0001",
    ),
    Wrong(
        "not a number", GOOD + "train: {learning_rate: .nan}\n", "3  train.learning_rate", "train.learning_rate: 0.0002"
    ),
    Wrong("infinite", GOOD + "train: {weight_decay: 1e999}\n", "3  train.weight_decay", "train.weight_decay: 0.0"),
    Wrong("warm-up in steps", GOOD + "train: {warmup: 100}\n", "3  train.warmup", "train.warmup: 0.03"),
    Wrong("no batch", GOOD + "train: {batch_size: 0}\n", "3  train.batch_size", "train.batch_size: 16"),
    Wrong("too much held out", BASE + "data:\n  train: a.jsonl\n  eval: 0.9\n", "4  data.eval", "data.eval: 0.05"),
    Wrong("a share in per cent", BASE + "data: {train: a.jsonl, eval: 10%}\n", "2  data.eval", "data.eval: 0.1"),
    Wrong("a share in quotes", BASE + "data: {train: a.jsonl, eval: '0.1'}\n", "2  data.eval", "data.eval: 0.1"),
    # not one of the choices
    Wrong("a method in capitals", GOOD + "method: QLoRA\n", "3  method", "method: qlora"),
    Wrong("a method we lack", GOOD + "method: dpo\n", "3  method", "method: qlora"),
    Wrong(
        "a longer schedule",
        GOOD + "train: {schedule: cosine_with_restarts}\n",
        "3  train.schedule",
        "train.schedule: cosine",
    ),
    Wrong(
        "modules for families",
        GOOD + "lora:\n  targets:\n    - attention\n    - q_proj\n    - gate_proj\n",
        "6  lora.targets",
        "lora.targets: [attention, mlp]",
    ),
    Wrong(
        "an unknown family",
        GOOD + "lora: {targets: [vision]}\n",
        "3  lora.targets",
        "lora.targets: [linear_attention, attention, mlp, experts]",
    ),
    Wrong(
        "no family",
        GOOD + "lora: {targets: []}\n",
        "3  lora.targets",
        "lora.targets: [linear_attention, attention, mlp, experts]",
    ),
    Wrong("no dashboard", GOOD + "train: {report_to: none}\n", "3  train.report_to", "train.report_to: []"),
    Wrong(
        "thinking: false",
        BASE + "data: {train: a.jsonl, thinking: false}\n",
        "2  data.thinking",
        "data.thinking: never",
    ),
    # names
    Wrong("a name with a blank", "name: my run!\n" + GOOD, "1  name", "name: my-run"),
    Wrong("a variable", GOOD + "name: ${RUN}\n", "3  name", "name: RUN"),
    Wrong(
        "a page for an id",
        "base: https://huggingface.co/Qwen/Qwen3.6-27B\ndata: {train: a.jsonl}\n",
        "1  base",
        "base: Qwen/Qwen3.6-27B",
    ),
    Wrong(
        "an id without its owner", "base: Qwen3.6-27B\ndata: {train: a.jsonl}\n", "1  base", "base: Qwen/Qwen3.6-27B"
    ),
    # secrets
    Wrong("a token", GOOD + f"system: use {SECRET}\n", "3  system", REVOKE),
    Wrong("a private key", GOOD + 'system: "-----BEGIN RSA PRIVATE KEY-----"\n', "3  system", REVOKE),
]


def problems_of(text: str | bytes, folder: Path, *overrides: str) -> tuple[Problem, ...]:
    """Loads a text as a recipe that must be refused; the shown name is `recipe.yaml`."""
    file = folder / "recipe.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecipeError) as caught:
        load(file, overrides)
    assert caught.value.exit_code == 2
    assert "Traceback" not in str(caught.value)
    return tuple(
        Problem(*(part.replace(f"{folder}/", "") for part in (p.what, p.where, p.why, p.fix)))
        for p in caught.value.problems
    )


def test_there_are_more_than_thirty_of_them() -> None:
    assert len(ONE_PROBLEM) >= 30
    assert len({wrong.name for wrong in ONE_PROBLEM}) == len(ONE_PROBLEM)


@pytest.mark.parametrize("wrong", ONE_PROBLEM, ids=lambda wrong: wrong.name)
def test_a_wrong_recipe_is_told_with_its_line_and_a_fix_that_cures(wrong: Wrong, tmp_path: Path) -> None:
    (problem,) = problems_of(wrong.text, tmp_path)
    assert problem.where == f"recipe.yaml:{wrong.where}"
    assert problem.fix == wrong.fix
    assert problem.what
    assert problem.why
    assert len(str(problem).splitlines()) == 4
    assert SECRET not in str(problem)
    if wrong.cures:
        mended = tmp_path / "recipe.yaml"
        mended.write_text(follow(wrong.text, problem))
        load(mended)


def follow(text: str, problem: Problem) -> str:
    """Does to a recipe what a fix says, as its user would."""
    place, _, key = problem.where.partition("  ")
    line, lines, fix = int(place.rpartition(":")[2]), text.splitlines(), problem.fix
    if found := re.fullmatch(r"(?:replace the tab by spaces|indent it as the line above): (.*)", fix):
        lines[line - 1] = found[1]
    elif found := re.fullmatch(r"put a space after the colon: (.*)", fix):
        indent = len(lines[line - 1]) - len(lines[line - 1].lstrip())
        lines[line - 1] = " " * indent + found[1]
    elif problem.what == "the recipe is not YAML" and fix.startswith("system: "):
        lines[line - 1] = fix
    elif fix == "delete that character":
        lines[line - 1] = lines[line - 1].replace("\0", "")
    elif found := re.fullmatch(r"delete line (\d+)", fix):
        del lines[int(found[1]) - 1]
    elif found := re.fullmatch(r"keep one recipe in one file: end it before line (\d+)", fix):
        del lines[int(found[1]) - 1 :]
    elif found := re.fullmatch(r"delete (&\w+)", fix):
        lines[line - 1] = lines[line - 1].replace(found[1], "")
    else:
        return json.dumps(with_line(yaml_places.parse(text, "").value or {}, key, fix))
    return "\n".join(lines) + "\n"


def with_line(values: dict[str, Any], wrong_key: str, fix: str) -> dict[str, Any]:
    """Takes the wrong key out and lays the fix, `key: value`, over the rest."""
    holder, _, name = wrong_key.rpartition(".")
    if wrong_key in values:
        del values[wrong_key]
    elif isinstance(values.get(holder), dict) and name in values[holder]:
        del values[holder][name]
    if fix in (DELETE, REVOKE):
        return values
    section, _, name = fix.partition(": ")[0].rpartition(".")
    value = yaml_places.parse(fix.partition(": ")[2], "").value
    if section:
        values.setdefault(section, {})[name] = value
    else:
        values[name] = value
    return values


SOURCE_KEYS = [f"data.train.{name}" for name in Source.model_fields]


@pytest.mark.parametrize("value", [None, "", [""], {"": "x"}, {"promt": "q"}, -1, "?"], ids=str)
def test_no_key_is_proposed_with_nothing_in_it(value: Any) -> None:
    for key in (*keys(), *SOURCE_KEYS):
        told = propose(key, value, None if value is None else "null")
        assert yaml_places.parse(told, "").value is not None, (key, told)


@pytest.mark.parametrize("train", ["{path: x, columns: %s}", "[{path: x, columns: %s}]", "x, columns: %s"])
def test_misspelt_columns_keep_what_they_name(train: str, tmp_path: Path) -> None:
    text = f"base: a/b\ndata: {{train: {train % '{promt: q, completion: a}'}}}\n"
    (problem,) = problems_of(text, tmp_path)
    assert problem.fix.endswith("columns: {prompt: q, completion: a}")


@pytest.mark.parametrize(
    ("name", "raw", "where", "fix"),
    [
        ("latin-1", b"# caf\xe9\n" + GOOD.encode(), ":1", "iconv -f cp1252 -t utf-8 recipe.yaml > recipe.utf8.yaml"),
        (
            "chinese",
            GOOD.encode() + "system: 你是律师\n".encode("gb18030"),
            ":3",
            "iconv -f gb18030 -t utf-8 recipe.yaml > recipe.utf8.yaml",
        ),
        ("utf-16", GOOD.encode("utf-16"), ":1", "iconv -f utf-16 -t utf-8 recipe.yaml > recipe.utf8.yaml"),
        ("binary", b"\x89PNG\r\n\0\xff\xfe", ":1", "name the YAML file: finetune init legal writes one"),
        (
            "too large",
            GOOD.encode() + b"# " + b"x" * 300_000,
            ":1",
            "put the rows in a file of their own and name it in data.train",
        ),
    ],
)
def test_a_file_that_is_no_text_of_ours_is_told_how_to_become_one(
    name: str, raw: bytes, where: str, fix: str, tmp_path: Path
) -> None:
    (problem,) = problems_of(raw, tmp_path)
    assert (problem.where, problem.fix) == (f"recipe.yaml{where}", fix)
    assert problem.why


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load(file).base == "Qwen/Qwen3.6-27B"


def test_an_alias_is_written_out_by_its_fix(tmp_path: Path) -> None:
    text = GOOD + "train:\n  epochs: &n 3\n  save_every: *n\n"
    anchor, alias = problems_of(text, tmp_path)
    assert (anchor.where, anchor.fix) == ("recipe.yaml:4  train.epochs", "delete &n")
    assert (alias.where, alias.fix) == ("recipe.yaml:5  train.save_every", "train.save_every: 3")


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n"])
def test_an_empty_recipe_is_told_what_it_needs(text: str, tmp_path: Path) -> None:
    problems = problems_of(text, tmp_path)
    assert [p.fix for p in problems] == ["base: Qwen/Qwen3.6-27B", "data: {train: data/train.jsonl}"]


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = """\
base: Qwen3.6-27B
metod: lora
data:
  trian: a.jsonl
  max_length: 4k
  eval: 0.9
lora:
  rank: 0
  rank: 8
  targets: [q_proj]
train:
  epochs: -1
  learning_rate: "1e-4"
  batch_size:
"""
    problems = problems_of(text, tmp_path)
    assert {(p.where.removeprefix("recipe.yaml:"), p.fix) for p in problems} == {
        ("1  base", "base: Qwen/Qwen3.6-27B"),
        ("2  metod", "method: lora"),
        ("4  data.trian", "data.train: a.jsonl"),
        ("5  data.max_length", "data.max_length: 2048"),
        ("6  data.eval", "data.eval: 0.05"),
        ("8  lora.rank", "lora.rank: 16"),
        ("9  lora.rank", "delete line 9"),
        ("10  lora.targets", "lora.targets: [attention]"),
        ("12  train.epochs", "train.epochs: 1"),
        ("13  train.learning_rate", "train.learning_rate: 0.0001"),
        ("14  train.batch_size", "train.batch_size: 16"),
    }


def test_a_whole_recipe_of_axolotl_becomes_ours_by_following_every_fix(tmp_path: Path) -> None:
    text = """\
base_model: Qwen/Qwen3.6-27B
load_in_4bit: true
datasets:
  - path: rows.jsonl
    type: chat_template
val_set_size: 0.1
sequence_len: 4096
sample_packing: true
adapter: qlora
lora_r: 32
lora_alpha: 64
lora_target_linear: true
micro_batch_size: 2
gradient_accumulation_steps: 8
num_epochs: 3
optimizer: paged_adamw_8bit
lr_scheduler: cosine
learning_rate: 0.0002
bf16: auto
flash_attention: true
warmup_ratio: 0.05
output_dir: ./out
"""
    values = yaml_places.parse(text, "").value
    for problem in problems_of(text, tmp_path):
        values = with_line(values, problem.where.partition("  ")[2], problem.fix)
    (tmp_path / "recipe.yaml").write_text(json.dumps(values))
    recipe = load(tmp_path / "recipe.yaml")
    assert (recipe.base, recipe.method, recipe.data.train) == ("Qwen/Qwen3.6-27B", "qlora", tmp_path / "rows.jsonl")
    assert (recipe.data.eval, recipe.data.max_length, recipe.lora.rank, recipe.lora.alpha) == (0.1, 4096, 32, 64)
    assert (recipe.train.epochs, recipe.train.warmup, recipe.train.schedule) == (3, 0.05, "cosine")


def test_a_whole_recipe_of_llama_factory_becomes_ours_by_following_every_fix(tmp_path: Path) -> None:
    text = """\
model_name_or_path: Qwen/Qwen3.6-27B
trust_remote_code: true
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: q_proj,v_proj
dataset: identity.jsonl
template: qwen3
cutoff_len: 2048
output_dir: saves/qwen3
logging_steps: 10
save_steps: 500
per_device_train_batch_size: 1
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
val_size: 0.1
report_to: none
"""
    values = yaml_places.parse(text, "").value
    for problem in problems_of(text, tmp_path):
        values = with_line(values, problem.where.partition("  ")[2], problem.fix)
    (tmp_path / "recipe.yaml").write_text(json.dumps(values))
    recipe = load(tmp_path / "recipe.yaml")
    assert (recipe.method, recipe.lora.rank, recipe.lora.targets) == ("lora", 8, ("attention",))
    assert (recipe.train.learning_rate, recipe.train.save_every, recipe.data.eval) == (1e-4, 500, 0.1)


def test_no_error_repeats_a_secret(tmp_path: Path) -> None:
    text = f"base: {SECRET}\nhf_token: {SECRET}\n\tsystem: {SECRET}\n"
    assert SECRET not in str(problems_of(text, tmp_path))
    text = GOOD + f"hub_token: {SECRET}\nname: {SECRET}\ntrain: {{report_to: [{SECRET}]}}\n"
    assert SECRET not in str(problems_of(text, tmp_path, f"system={SECRET}", f"token={SECRET}", f"lora.rank={SECRET}"))


@pytest.mark.parametrize(
    ("word", "fix"),
    [
        ("lora.rnak=8", "--set lora.rank=8"),
        ("lr=1e-4", "--set train.learning_rate=0.0001"),
        ("lora=8", "--set lora.rank=16"),
        ("train.epochs", "--set train.epochs=3"),
        ("=3", "--set train.epochs=3"),
        ("train.epochs=three", "--set train.epochs=2.0"),
        ("train.epochs=", "--set train.epochs=2.0"),
        ("lora.targets=q_proj", "--set 'lora.targets=[attention]'"),
        ("name=7", "--set 'name=\"7\"'"),
        ("name=a\nb", "--set name=a-b"),
        ("method=", "--set method=qlora"),
        ("lora.targets=[attention", "close the quote or the bracket that is opened in this line"),
        ("frobnicate=1", "leave out --set frobnicate=1"),
        ("data.eval=20%", "--set data.eval=0.2"),
    ],
)
def test_a_wrong_override_is_told_as_it_was_typed(word: str, fix: str, tmp_path: Path) -> None:
    (problem,) = problems_of(GOOD, tmp_path, word)
    assert (problem.where, problem.fix) == (f"--set {word}", fix)
    assert len(str(problem).splitlines()) <= 4
    assert problem.why
    if fix.startswith("--set "):
        load(tmp_path / "recipe.yaml", shlex.split(fix)[1:])  # as a shell reads it


@pytest.mark.parametrize(("name", "told"), [("leagl.yaml", "legal.yaml"), ("x" * 300, "finetune init legal")])
def test_a_missing_recipe_names_a_near_one_or_how_to_begin(name: str, told: str, tmp_path: Path) -> None:
    if told == "legal.yaml":
        (tmp_path / told).write_text(GOOD)
    with pytest.raises(RecipeError) as caught:
        load(tmp_path / name)
    (problem,) = caught.value.problems
    assert problem.where == str(tmp_path / name)
    assert told in problem.fix or problem.fix.startswith("ls -l")


def test_a_link_to_nothing_is_not_proposed_in_its_own_place(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").symlink_to("nothing")
    with pytest.raises(RecipeError) as told:
        load(tmp_path / "r.yaml")
    assert told.value.problems[0].fix.startswith("finetune init legal")


def test_a_folder_is_not_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.yml").write_text(GOOD)
    with pytest.raises(RecipeError, match="this is a folder") as caught:
        load(tmp_path)
    assert caught.value.problems[0].fix == f"did you mean {tmp_path / 'recipe.yml'}?"


def test_a_bound_is_told_in_full(tmp_path: Path) -> None:
    (problem,) = problems_of(BASE + "data: {train: a.jsonl, max_length: 9999999}\n", tmp_path)
    assert problem.why == "it must be at most 1,048,576"


def test_a_device_and_a_pipe_are_refused_before_they_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "recipe.yaml")
    for file in ("/dev/zero", tmp_path / "recipe.yaml"):
        with pytest.raises(RecipeError, match="this is not a regular file") as caught:
            load(file)
        (problem,) = caught.value.problems
        assert problem.where == str(file)
        assert problem.why
        assert problem.fix


def test_a_file_too_long_for_a_recipe_is_not_read_to_its_end(tmp_path: Path) -> None:
    with (tmp_path / "recipe.yaml").open("wb") as stream:
        stream.truncate(2**40)  # a hole: it takes no disk, and no memory holds it
    with pytest.raises(RecipeError, match="too long for a recipe") as caught:
        load(tmp_path / "recipe.yaml")
    assert caught.value.problems[0].why == "a recipe has at most 1,048,576 bytes"
