"""Which tasks there are, and how an answer to each is scored; no model is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import pytest

from finetune.data.rendering import Example
from finetune.errors import DataError, RecipeError
from finetune.evaluate.items import Question, Rows
from finetune.evaluate.jobs import Job, make_jobs
from finetune.evaluate.tasks import wished
from finetune.recipe import HarnessTask, Recipe, Task, load

CALL = {"type": "function", "function": {"name": "find", "arguments": {"city": "Oslo"}}}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}


def rows(*expected: str, calls: tuple[dict[str, Any], ...] = (), tools: tuple[dict[str, Any], ...] = ()) -> Rows:
    asked = [Question(f"{i}", f"rows:{i}", (i,), "?", each, calls, tools) for i, each in enumerate(expected)]
    return Rows("held_out", tuple(asked), (Example([1, 2], [False, True], "rows:1"),))


def no_benchmark(wish: HarnessTask) -> NoReturn:
    raise AssertionError(wish)


def jobs(held_out: Rows, *tasks: Task) -> list[Job]:
    return make_jobs(tasks or None, held_out, lambda task: held_out, no_benchmark)


@pytest.mark.parametrize(
    ("held_out", "kinds"),
    [
        (rows("yes", "no", "Yes.", "no"), ["loss", "exact", "choice"]),
        (rows("blue", "blue"), ["loss", "exact"]),
        (rows("yes", "no", "maybe"), ["loss"]),  # more kinds of answers than half the rows
        (rows("yes\nsir", "yes\nsir"), ["loss"]),
        (rows("x" * 81, "x" * 81), ["loss"]),
        (rows("", "", calls=(CALL,)), ["loss", "tool_call"]),
        (rows(), ["loss"]),
    ],
)
def test_without_a_wish_the_rows_decide(held_out: Rows, kinds: list[str]) -> None:
    assert [job.kind for job in jobs(held_out)] == kinds


def recipe(folder: Path, section: str) -> Recipe:
    (folder / "r.yaml").write_text(f"base: Qwen/Qwen3.6-27B\ndata: {{train: r.jsonl}}\nevaluate: {section}\n")
    return load(folder / "r.yaml")


def test_words_of_the_command_line_choose_by_name_by_score_or_make_one(tmp_path: Path) -> None:
    told = recipe(tmp_path, "{tasks: [loss, {score: exact, name: short}, {score: exact, file: g.jsonl}]}")
    short, general = Task(score="exact", name="short"), Task(score="exact", file=tmp_path / "g.jsonl")
    assert wished(told, ()) == (Task(score="loss"), short, general)
    assert wished(told, ("short",)) == (short,)
    assert wished(told, ("exact", "g exact")) == (short, general)
    assert wished(told, ("contains",)) == (Task(score="contains"),)
    with pytest.raises(RecipeError, match="there is no task shrt") as error:
        wished(told, ("shrt",))
    assert error.value.problems[0].fix == "--tasks short"


def test_json_keeps_its_schema_and_equals_the_expected_value(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]}
    (tmp_path / "s.json").write_text(json.dumps(schema))
    (job,) = jobs(rows('{"total": 3}', "no JSON"), Task(score="json", json_schema=tmp_path / "s.json"))
    assert (len(job.questions), job.notes) == (1, ("held_out json: 1 rows whose answer is no JSON are not asked",))
    assert job.score is not None
    scored = [job.score(said, job.questions[0]) for said in ('{"total": 3.0}', '{"total": 4}', '{"total": "3"}', "3,")]
    assert [each.right for each in scored] == [True, False, False, False]
    assert [each.why for each in scored] == [
        *("", "", "breaks the schema: $.total '3' is not of type 'number'", "not JSON")
    ]
    (tmp_path / "s.json").write_text('{"type": "nothing"}')
    with pytest.raises(RecipeError, match="this is no JSON Schema"):
        jobs(rows("1"), Task(score="json", json_schema=tmp_path / "s.json"))


def test_rows_that_offer_tools_and_expect_none_are_asked_and_told() -> None:
    (job,) = jobs(rows("Oslo is nice.", "It rains.", tools=(TOOL,)), Task(score="tool_call"))
    assert job.notes == ("held_out tool_call: 2 of 2 rows expect no call; whatever calls nothing is right there",)
    assert job.score is not None
    assert job.score("Just so.", job.questions[0]).right


def test_a_task_without_items_is_refused() -> None:
    for score, told in (("tool_call", "rows with tools"), ("json", "answers in words"), ("exact", "answers in words")):
        held_out = rows("words") if score != "exact" else rows("", calls=(CALL,))
        with pytest.raises(DataError, match=f"the task held_out {score} has no items") as error:
            jobs(held_out, Task(score=score))  # type: ignore[arg-type]
        assert told in error.value.problems[0].why


def test_the_items_of_a_task_are_known_by_what_is_asked_and_expected() -> None:
    one, same, other = (jobs(rows(*each), Task(score="exact"))[0].data_sha256 for each in ("ab", "ab", "abc"))
    assert one == same != other
