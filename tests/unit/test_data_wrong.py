"""What people get wrong in data: each mistake has its file, line and field, a rule, and a way out."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from finetune.data import read_rows, read_split
from finetune.errors import DataError, Problem
from finetune.recipe import load

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {}}}
MESSAGES = '"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'
TOOL_CALLS = '"tool_calls": [{"type": "function", "function": {"name": "...", "arguments": {}}}]'
CALL_FIX = '{"type": "function", "function": {"name": "...", "arguments": {}}}'
TOOL_FIX = '{"type": "function", "function": {"name": "...", "parameters": {}}}'
ARGUMENTS = '"arguments": {"key": "value"}'


def chat(*messages: Any, **columns: Any) -> str:
    return json.dumps({"messages": list(messages), **columns})


def call(name: str = "find", arguments: Any = None, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments or {}}, **fields}


def calling(*calls: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


def answer(**fields: Any) -> dict[str, Any]:
    return {"role": "tool", "content": "42", **fields}


GOOD = chat(USER, ANSWER)


class Wrong(NamedTuple):
    """A row that follows a good one, and its problem."""

    name: str
    row: str | bytes
    field: str
    what: str
    fix: str


ROWS = [
    # not JSON
    Wrong(
        "latin-1",
        '{"prompt": "café?", "completion": "x"}'.encode("latin-1"),
        "",
        "the line is not UTF-8",
        "iconv -f cp1252 -t utf-8 rows.jsonl > rows.utf8.jsonl",
    ),
    Wrong(
        "gb18030",
        '{"prompt": "合同", "completion": "x"}'.encode("gb18030"),
        "",
        "the line is not UTF-8",
        "iconv -f gb18030 -t utf-8 rows.jsonl > rows.utf8.jsonl",
    ),
    Wrong("a comma after the row", GOOD + ",", "", "the line is not JSON", "remove the comma at the end of the line"),
    Wrong(
        "a comma in the row",
        '{"prompt": "a", "completion": "b",}',
        "",
        "the line is not JSON",
        "remove the comma before the closing bracket",
    ),
    Wrong(
        "Python's repr",
        "{'prompt': 'a', 'completion': 'b'}",
        "",
        "the line is not JSON",
        "write it with json.dumps(row), not str(row)",
    ),
    Wrong(
        "Python's None",
        '{"prompt": "a", "completion": "b", "id": None}',
        "",
        "the line is not JSON",
        "write it with json.dumps(row), not str(row)",
    ),
    Wrong("two rows in a line", GOOD + GOOD, "", "the line is not JSON", f"begin a new line at column {len(GOOD) + 1}"),
    Wrong(
        "cut off",
        GOOD[:40],
        "",
        "the line is not JSON",
        'write the row in one line, quotes inside text as \\", line breaks as \\n',
    ),
    Wrong("a key twice", '{"prompt": "a", "prompt": "b"}', "", "the line is not JSON", 'keep one "prompt"'),
    Wrong("NaN", '{"prompt": "a", "score": NaN}', "", "the line is not JSON", "write null, or leave the field out"),
    Wrong("1e999", '{"prompt": "a", "score": 1e999}', "", "the line is not JSON", "write it as text, in quotes"),
    Wrong("5000 digits", f'{{"prompt": {"1" * 5000}}}', "", "the line is not JSON", "write it as text, in quotes"),
    Wrong(
        "half a character",
        '{"prompt": "a \\ud83d", "completion": "b"}',
        "",
        "the line is not JSON",
        "remove \\ud83d, or write both halves",
    ),
    Wrong(
        "70 brackets",
        f'{{"prompt": {"[" * 70}{"]" * 70}}}',
        "",
        "the line is not JSON",
        "keep what is nested so deep as text: json.dumps",
    ),
    Wrong(
        "100,000 brackets",
        "[" * 100_000,
        "",
        "the line is not JSON",
        "keep what is nested so deep as text: json.dumps",
    ),
    Wrong("a text", '"hello"', "", "a row is a JSON object", f"{{{MESSAGES}}}"),
    Wrong("a list", f"[{GOOD}]", "", "a row is a JSON object", f"{{{MESSAGES}}}"),
    # another dialect
    Wrong(
        "misspelt",
        '{"mesages": []}',
        "mesages",
        "the row has no shape that is known",
        'rename "mesages" to "messages"',
    ),
    Wrong(
        "nothing",
        "{}",
        "(empty)",
        "the row has no shape that is known",
        '{"prompt": "...", "completion": "..."}',
    ),
    Wrong("no completion", '{"prompt": "a"}', "completion", "the row has no completion", '"completion": "..."'),
    Wrong("no prompt", '{"completion": "a"}', "prompt", "the row has no prompt", '"prompt": "..."'),
    Wrong(
        "both",
        chat(USER, ANSWER, prompt="a", completion="b"),
        "messages",
        "the row has messages and a prompt",
        "keep one",
    ),
    Wrong(
        "completion null",
        '{"prompt": "a", "completion": null}',
        "completion",
        "completion is null",
        '"completion": "..."',
    ),
    Wrong(
        "completion empty",
        '{"prompt": "a", "completion": " "}',
        "completion",
        "the assistant says nothing",
        "remove the row, or write the answer",
    ),
    Wrong(
        "prompt empty",
        '{"prompt": "", "completion": "a"}',
        "prompt",
        "the user says nothing",
        "remove the row, or write the question",
    ),
    # messages
    Wrong("no messages", '{"messages": []}', "messages", "messages is an empty list", MESSAGES),
    Wrong("messages as text", '{"messages": "Hi"}', "messages", "messages is text", MESSAGES),
    Wrong(
        "a message as text",
        chat("Hi", "Hello"),
        "messages[0]",
        "a message is an object",
        '{"role": "user", "content": "..."}',
    ),
    Wrong("no role", chat({"content": "Hi"}, ANSWER), "messages[0].role", "the message has no role", '"role": "user"'),
    Wrong(
        "human",
        chat({"role": "human", "content": "Hi"}, ANSWER),
        "messages[0].role",
        'there is no role "human"',
        '"role": "user"',
    ),
    Wrong(
        "developer",
        chat({"role": "developer", "content": "Hi"}, USER, ANSWER),
        "messages[0].role",
        'there is no role "developer"',
        '"role": "system"',
    ),
    Wrong(
        "content null",
        chat(USER, {"role": "assistant", "content": None}),
        "messages[1].content",
        "the assistant message has no content",
        '"content": "..."',
    ),
    Wrong(
        "content a number",
        chat({"role": "user", "content": 42}, ANSWER),
        "messages[0].content",
        "content is not text",
        '"content": "42"',
    ),
    Wrong(
        "content an object",
        chat(USER, {"role": "assistant", "content": {"a": 1}}),
        "messages[1].content",
        "content is not text",
        '"content": "{\\"a\\": 1}"',
    ),
    Wrong(
        "content empty",
        chat(USER, {"role": "assistant", "content": "\n"}),
        "messages[1].content",
        "the assistant says nothing",
        "remove the row, or write the answer",
    ),
    Wrong(
        "an image",
        chat({"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image_url"}]}, ANSWER),
        "messages[0].content[1]",
        'content of type "image_url" is not text',
        "remove the part, or the row",
    ),
    Wrong(
        "thinking",
        chat(USER, {**ANSWER, "thinking": "hm"}),
        "messages[1].thinking",
        "thinking is not read by the chat template",
        'rename "thinking" to "reasoning_content"',
    ),
    Wrong(
        "reasoning_content a list",
        chat(USER, {**ANSWER, "reasoning_content": ["hm"]}),
        "messages[1].reasoning_content",
        "reasoning_content is not text",
        '"reasoning_content": "..."',
    ),
    Wrong(
        "the user reasons",
        chat({**USER, "reasoning_content": "hm"}, ANSWER),
        "messages[0].reasoning_content",
        "a user message has reasoning_content",
        '"role": "assistant"',
    ),
    Wrong(
        "an open think",
        chat(USER, {"role": "assistant", "content": "<think>hm 4"}),
        "messages[1].content",
        "<think> is never closed",
        "close it with </think>, or use reasoning_content",
    ),
    Wrong(
        "half a weight",
        chat(USER, {**ANSWER, "weight": 0.5}),
        "messages[1].weight",
        "the weight 0.5 is not known",
        '"weight": 1',
    ),
    Wrong(
        "no weight at all",
        chat(USER, {**ANSWER, "weight": 0}),
        "messages[1]",
        "nothing of the row is learnt",
        "remove the row, or give the answer the weight 1",
    ),
    # order
    Wrong(
        "no assistant",
        chat(USER),
        "messages[0].role",
        "the conversation ends with the user",
        "add the assistant's answer, or remove the last message",
    ),
    Wrong(
        "assistant first",
        chat(ANSWER, USER, ANSWER),
        "messages[0].role",
        "the assistant speaks first",
        'begin with {"role": "user", "content": "..."}',
    ),
    Wrong(
        "two users",
        chat(USER, USER, ANSWER),
        "messages[1].role",
        "two user messages in a row",
        "join them into one message",
    ),
    Wrong(
        "a late system",
        chat(USER, ANSWER, {"role": "system", "content": "x"}, USER, ANSWER),
        "messages[2].role",
        "the system message is not the first",
        "move it to the front, or join it with the first",
    ),
    # tools
    Wrong(
        "function_call",
        chat(USER, {"role": "assistant", "content": None, "function_call": {"name": "f"}}),
        "messages[1].function_call",
        "function_call is the old form of a tool call",
        TOOL_CALLS,
    ),
    Wrong(
        "an answer without a call",
        chat(USER, ANSWER, answer(), ANSWER),
        "messages[2].role",
        "a tool answers a call that nobody made",
        "put tool_calls on the assistant's message before it",
    ),
    Wrong(
        "a call without an answer",
        chat(USER, calling(call()), USER, ANSWER),
        "messages[2].role",
        "1 tool call was not answered",
        "put a tool message for each call before it",
    ),
    Wrong(
        "one answer to two calls",
        chat(USER, calling(call(), call()), answer(), ANSWER),
        "messages[3].role",
        "1 tool call was not answered",
        "put a tool message for each call before it",
    ),
    Wrong(
        "an answer to another call",
        chat(USER, calling(call(id="c1")), answer(tool_call_id="c9"), ANSWER),
        "messages[2].tool_call_id",
        "no open call has the id c9",
        'the answer to "c1" comes here',
    ),
    Wrong(
        "answers in another order",
        chat(
            USER,
            calling(call(id="c1"), call(id="c2")),
            answer(tool_call_id="c2"),
            answer(tool_call_id="c1"),
            ANSWER,
        ),
        "messages[2].tool_call_id",
        "tool answers stand in another order than their calls",
        'the answer to "c1" comes here',
    ),
    Wrong(
        "an unknown tool",
        chat(USER, calling(call("fnid")), tools=[TOOL]),
        "messages[1].tool_calls[0].function.name",
        "no tool is called fnid",
        '"name": "find"',
    ),
    Wrong(
        "arguments not JSON",
        chat(USER, calling(call(arguments="{q: 1}"))),
        "messages[1].tool_calls[0].function.arguments",
        "the arguments are not JSON",
        ARGUMENTS,
    ),
    Wrong(
        "arguments half a character",
        chat(USER, calling(call(arguments='{"q": "\\ud800"}'))),
        "messages[1].tool_calls[0].function.arguments",
        "the arguments are not JSON",
        ARGUMENTS,
    ),
    Wrong(
        "arguments without end",
        chat(USER, calling(call(arguments="[" * 100_000))),
        "messages[1].tool_calls[0].function.arguments",
        "the arguments are not JSON",
        ARGUMENTS,
    ),
    Wrong(
        "arguments a list",
        chat(USER, calling(call(arguments=["x"]))),
        "messages[1].tool_calls[0].function.arguments",
        "the arguments are not an object",
        ARGUMENTS,
    ),
    Wrong(
        "tool_calls an object",
        chat(USER, {"role": "assistant", "content": "", "tool_calls": call()}),
        "messages[1].tool_calls",
        "tool_calls is not a list",
        TOOL_CALLS,
    ),
    Wrong(
        "a call without a name",
        chat(USER, calling({"function": {}})),
        "messages[1].tool_calls[0].function",
        "a tool call has no name",
        CALL_FIX,
    ),
    Wrong(
        "tools not JSON",
        chat(USER, ANSWER, tools="[{]"),
        "tools",
        "tools is text that is not JSON",
        f'"tools": [{TOOL_FIX}]',
    ),
    Wrong("tools an object", chat(USER, ANSWER, tools=TOOL), "tools", "tools is not a list", f'"tools": [{TOOL_FIX}]'),
    Wrong("a tool without a name", chat(USER, ANSWER, tools=[{}]), "tools[0]", "a tool has no name", TOOL_FIX),
]


def problems_of(file: Path, raw: str | bytes, monkeypatch: pytest.MonkeyPatch) -> tuple[Problem, ...]:
    """Reads a file of rows that must be refused, from its own folder."""
    file.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    monkeypatch.chdir(file.parent)
    with pytest.raises(DataError) as caught:
        read_rows(file)
    assert caught.value.exit_code == 3
    return caught.value.problems


def test_there_are_more_than_thirty_of_them() -> None:
    assert len(ROWS) >= 30
    assert len({wrong.name for wrong in ROWS}) == len(ROWS)


@pytest.mark.parametrize("wrong", ROWS, ids=lambda wrong: wrong.name)
def test_a_wrong_row_is_told_with_its_line_and_field(
    wrong: Wrong, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = wrong.row if isinstance(wrong.row, bytes) else wrong.row.encode()
    (problem,) = problems_of(tmp_path / "rows.jsonl", GOOD.encode() + b"\n\n" + row + b"\n", monkeypatch)
    assert problem.where == "rows.jsonl:3" + (f"  {wrong.field}" if wrong.field else "")
    assert (problem.what, problem.fix) == (wrong.what, wrong.fix)
    assert problem.why
    assert len(str(problem).splitlines()) == 4


FILES: list[tuple[str, str | bytes, str, str]] = [
    ("an empty file", "", "rows.jsonl", f"{{{MESSAGES}}}"),
    ("blank lines", "\n \n", "rows.jsonl", f"{{{MESSAGES}}}"),
    ("utf-16", GOOD.encode("utf-16"), "rows.jsonl", "cat rows.jsonl | iconv -f utf-16 -t utf-8 > rows.utf8.jsonl"),
    (
        "9 MB in a line",
        b'{"prompt": "' + b"x" * 9 * 2**20 + b'", "completion": "y"}\n',
        "rows.jsonl",
        "awk 'length > 8388608 {print NR}' rows.jsonl",
    ),
]


@pytest.mark.parametrize(("name", "raw", "file", "fix"), FILES, ids=[file[0] for file in FILES])
def test_a_file_that_holds_no_rows_is_told_with_its_cure(
    name: str, raw: str | bytes, file: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (problem,) = problems_of(tmp_path / file, raw, monkeypatch)
    assert (problem.where, problem.fix) == (f"{file}:1", fix)
    assert problem.why
    assert shlex.split(problem.fix)


def test_the_same_mistake_is_told_three_times_and_then_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = problems_of(tmp_path / "rows.jsonl", f"{GOOD}\n" + f"{chat(ANSWER)}\n" * 50 + chat(USER), monkeypatch)
    assert [p.where.partition("  ")[0] for p in problems[:4]] == [f"rows.jsonl:{n}" for n in (2, 3, 4, 52)]
    assert problems[4].what == "and 47 more problems; 1 rows are good"


# What the recipe names


@pytest.mark.parametrize("key", ["train", "eval"])
def test_a_missing_file_is_told_at_its_key_with_the_near_one(key: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text(f"{GOOD}\n")
    files = {"train": "data/train.jsonl", "eval": "data/train.jsonl"} | {key: "data/trian.jsonl"}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"base: a/b\ndata:\n  train: {files['train']}\n  eval: {files['eval']}\n")
    with pytest.raises(DataError) as caught:
        read_split(load(recipe))
    (problem,) = caught.value.problems
    assert problem.what == "there is no file data/trian.jsonl"
    assert problem.where == f"{recipe}:{3 if key == 'train' else 4}  data.{key}"
    assert problem.fix == f"data.{key}: data/train.jsonl"
    read_split(load(recipe, [problem.fix.replace(": ", f"={tmp_path}/")]))


def test_a_missing_file_of_an_override_is_told_as_it_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(f"{GOOD}\n")
    (tmp_path / "recipe.yaml").write_text("base: a/b\ndata: {train: a.jsonl, eval: 0}\n")
    with pytest.raises(DataError) as caught:
        read_split(load("recipe.yaml", ["data.train=row.jsonl"]))
    (problem,) = caught.value.problems
    assert (problem.where, problem.fix) == ("--set data.train=row.jsonl", "--set data.train=rows.jsonl")
    read_split(load("recipe.yaml", ["data.train=rows.jsonl"]))


def test_a_folder_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "b.jsonl").write_text(f"{GOOD}\n")
    (tmp_path / "data" / "a.csv").write_text("question,answer\nWhy?,So.\n")
    (tmp_path / "recipe.yaml").write_text("base: a/b\ndata: {train: data, eval: 0}\n")
    rows, _ = read_split(load(tmp_path / "recipe.yaml"))
    assert [row.place for row in rows] == [f"{tmp_path}/data/a.csv:2", f"{tmp_path}/data/b.jsonl:1"]


@pytest.mark.parametrize("key", ["train", "eval"])
def test_a_pipe_is_refused_before_it_is_opened(key: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "rows.jsonl").write_text(f"{GOOD}\n")
    files = {"train": "rows.jsonl", "eval": "rows.jsonl"} | {key: "pipe"}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"base: a/b\ndata:\n  train: {files['train']}\n  eval: {files['eval']}\n")
    with pytest.raises(DataError, match="pipe is not a regular file") as caught:
        read_split(load(recipe))
    (problem,) = caught.value.problems
    assert problem.where == f"{recipe}:{3 if key == 'train' else 4}  data.{key}"
    assert problem.fix == "put the rows into a .jsonl file and name it"


def test_a_file_that_cannot_be_opened_is_told_as_the_system_tells_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the data cannot be read") as caught:
        read_rows(tmp_path / "absent.jsonl")
    assert caught.value.problems[0].why == "No such file or directory"


def test_one_row_alone_cannot_be_split(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(f"{GOOD}\n{GOOD}\n")
    (tmp_path / "recipe.yaml").write_text("base: a/b\ndata:\n  train: rows.jsonl\n")
    with pytest.raises(DataError, match="there is nothing to hold out") as caught:
        read_split(load(tmp_path / "recipe.yaml"))
    (problem,) = caught.value.problems
    assert (problem.where, problem.fix) == (f"{tmp_path}/recipe.yaml:2  data", "data.eval: 0")
    assert len(read_split(load(tmp_path / "recipe.yaml", ["data.eval=0"]))[0]) == 2
