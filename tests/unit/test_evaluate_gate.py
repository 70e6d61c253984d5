"""The gate: its grammar, what fails it, and what it could not have seen; what two evaluations must share."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import ArtifactError, RecipeError
from finetune.evaluate.comparing import check_alike, check_comparable
from finetune.evaluate.gate import failures, notes
from finetune.recipe import Task, WrongRule, load, of_set, read_rule

GOOD = "base: Qwen/Qwen3.6-27B\ndata: {train: rows.jsonl}\n"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("regression exact drops more than 0.02", ("regression exact", "drops more than", 0.02)),
        ("held_out  loss does not fall", ("held_out loss", "does not fall", 0.0)),
        ("loss rises more than 1", ("loss", "rises more than", 1.0)),
        ("my own task is below 0.9", ("my own task", "is below", 0.9)),
        ("choice does not rise", ("choice", "does not rise", 0.0)),
        ("exact is above 0", ("exact", "is above", 0.0)),
    ],
)
def test_a_rule_is_subject_verb_and_number(text: str, parts: tuple[str, str, float]) -> None:
    rule = read_rule(text)
    assert (rule.subject, rule.verb, rule.number) == parts
    assert rule.text == " ".join(text.split())


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("held_out loss doesn't fall", "held_out loss does not fall"),
        ("exact drops more than 2%", "exact drops more than 0.02"),
        ("exact drops more than two", "exact drops more than 0.02"),
        ("exact drops", "exact drops more than 0.02"),
        ("loss does not fall 3", "loss does not fall"),
        ("exact falls more than 0.1", "exact drops more than 0.1"),
        ("", "held_out loss does not fall"),
        ("exact drops more than nan", "exact drops more than 0.02"),
        ("exact drops more than 1e999", "exact drops more than 0.02"),
    ],
)
def test_what_is_no_rule_is_told_with_the_nearest_that_is(text: str, nearest: str) -> None:
    with pytest.raises(WrongRule) as told:
        read_rule(text)
    assert told.value.nearest == nearest
    read_rule(nearest)


def test_a_subject_is_a_set_and_a_score_or_a_name() -> None:
    assert of_set("regression exact") == ("regression", "exact")
    assert of_set("held_out loss") == ("domain", "loss")
    assert of_set("loss") == (None, "loss")
    assert of_set("other loss") is None
    assert of_set("gsm8k") is None


def task(low: float, high: float, sees: float | None = 0.01, side: str = "tuned") -> dict[str, Any]:
    middle = (low + high) / 2
    pair = {"one": "base", "other": side, "difference": {"value": middle, "low": low, "high": high}, "sees": sees}
    scores = {name: {"value": 0.5, "low": 0.4, "high": 0.6} for name in ("base", side)}
    return {"name": "general exact", "better": "higher", "items": 50, "pairs": [pair], "scores": scores}


@pytest.mark.parametrize(
    ("rule", "low", "high", "fails"),
    [
        ("exact drops more than 0.02", -0.30, -0.03, True),
        ("exact drops more than 0.02", -0.30, -0.01, False),  # the figure dropped by 0.15; the interval does not say so
        ("exact drops more than 0.02", -0.30, -0.02, False),
        ("exact drops more than 0", -0.30, -0.001, True),
        ("loss rises more than 0.1", 0.11, 0.2, True),
        ("loss rises more than 0.1", 0.09, 0.2, False),
        ("loss does not fall", -0.2, -0.1, False),
        ("loss does not fall", -0.2, 0.0, True),
        ("loss does not fall", 0.1, 0.2, True),
        ("exact does not rise", 0.1, 0.2, False),
        ("exact does not rise", 0.0, 0.2, True),
        ("exact is below 0.7", 0.0, 0.0, True),
        ("exact is below 0.6", 0.0, 0.0, False),
        ("exact is above 0.3", 0.0, 0.0, True),
        ("exact is above 0.4", 0.0, 0.0, False),
    ],
)
def test_a_rule_fails_where_the_whole_interval_says_so(rule: str, low: float, high: float, fails: bool) -> None:
    told = failures([(read_rule(rule), ["general exact"])], [task(low, high)])
    assert bool(told) is fails
    assert all(line.startswith(f"{rule}: general exact of tuned") for line in told)


def test_fewer_than_six_items_show_no_change() -> None:
    few = {**task(-0.3, -0.1), "items": 5}
    assert not failures([(read_rule("exact drops more than 0.02"), ["general exact"])], [few])
    assert failures([(read_rule("loss does not fall"), ["general exact"])], [few])


def test_a_gguf_is_held_to_the_rules_too() -> None:
    (told,) = failures([(read_rule("exact drops more than 0"), ["general exact"])], [task(-0.3, -0.1, side="gguf/x")])
    assert "of gguf/x changed by -0.2000 [-0.3000, -0.1000]" in told


def test_a_set_too_small_to_see_what_a_rule_forbids_is_told() -> None:
    rules = [(read_rule("exact drops more than 0.02"), ["general exact"])]
    assert list(notes(rules, [task(-0.1, 0.1, sees=0.01)])) == []
    assert "50 items of general exact can show changes over 0.3" in next(notes(rules, [task(-0.1, 0.1, sees=0.3)]))
    assert "none at all" in next(notes(rules, [task(-0.1, 0.1, sees=None)]))


# What two evaluations must share

SIDE: dict[str, Any] = {
    "what": "a", "engine": "transformers 5.23.1 cpu float32", "template": "t" * 64, "tokenizer": "k" * 64,
    "thinking": False, "preserve_thinking": False, "system": None,
    "sampling": {"temperature": 0, "max_new_tokens": 256, "seed": 0},
}  # fmt: skip
EVALUATION: dict[str, Any] = {
    "run": "a-0001",
    "sides": {"base": SIDE, "tuned": dict(SIDE)},
    "tasks": [{"name": "held_out loss", "data_sha256": "d" * 64}],
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("template", "u" * 64),
        ("tokenizer", "u" * 64),
        ("thinking", True),
        ("preserve_thinking", True),
        ("system", "Be brief."),
        ("sampling", {"temperature": 0, "max_new_tokens": 512, "seed": 0}),
        ("engine", "transformers 5.24.0 cpu float32"),
    ],
)
def test_a_planted_difference_is_refused_by_its_name(key: str, value: object) -> None:
    other = deepcopy(EVALUATION)
    other["sides"]["tuned"][key] = value
    check_comparable(EVALUATION, EVALUATION)
    with pytest.raises(ArtifactError, match=f"differ in the {key} of tuned"):
        check_comparable(EVALUATION, other)
    if key != "engine":
        with pytest.raises(ArtifactError, match=f"the {key} of tuned is not that of base"):
            check_alike(other["sides"])


def test_other_items_are_refused() -> None:
    other = deepcopy(EVALUATION)
    other["tasks"][0]["data_sha256"] = "e" * 64
    with pytest.raises(ArtifactError, match="differ in the items of held_out loss"):
        check_comparable(EVALUATION, other)


# The recipe's section


def loaded(folder: Path, section: str) -> Any:
    (folder / "recipe.yaml").write_text(f"{GOOD}evaluate: {section}\n")
    return load(folder / "recipe.yaml").evaluate


def test_tasks_are_words_or_small_mappings(tmp_path: Path) -> None:
    told = loaded(
        tmp_path, "{tasks: [loss, {score: exact, file: g.jsonl, set: regression}], fail_if: [loss does not fall]}"
    )
    assert told.tasks == ("loss", Task(score="exact", file=tmp_path / "g.jsonl", set="regression"))
    assert told.fail_if == ("loss does not fall",)


RULE = "evaluate.fail_if: [loss does not fall]"
PATTERN = '"answer: (.*)"'


@pytest.mark.parametrize(
    ("section", "what", "fix"),
    [
        ("{tasks: [exat]}", "tasks[0] cannot be exat", "evaluate.tasks: [exact]"),
        ("{tasks: [exact_match]}", "tasks[0] cannot be exact_match", "evaluate.tasks: [exact]"),
        ("{tasks: exact}", "tasks cannot be exact", "evaluate.tasks: [exact]"),
        ("{tasks: [loss, {score: tools}]}", "tasks[1].score cannot be tools", "score: tool_call"),
        ("{tasks: [{file: x}]}", "tasks[0] has no score", "score: exact"),
        ("{tasks: [{score: exact, fil: x}]}", "tasks[0] has no key fil", "file: general.jsonl"),
        ("{tasks: [{score: regex, pattern: (}]}", 'tasks[0].pattern cannot be "("', f"pattern: {PATTERN}"),
        (
            "{tasks: [{score: regex}]}",
            "tasks[0] cannot be {score: regex}",
            f"evaluate.tasks: [{{score: regex, pattern: {PATTERN}}}]",
        ),
        ("{fail_if: [loss doesnt fall]}", "fail_if[0] cannot be loss doesnt fall", RULE),
        ("{fail_if: loss does not fall}", "fail_if cannot be loss does not fall", RULE),
    ],
)
def test_a_wrong_task_or_rule_is_told_with_the_nearest(section: str, what: str, fix: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as told:
        loaded(tmp_path, section)
    (problem,) = told.value.problems
    assert (problem.what, problem.fix) == (f"evaluate.{what}", fix)
    assert problem.where.startswith(f"{tmp_path / 'recipe.yaml'}:3")
