"""Rows in anybody's shape: recognised by their columns, or told with the mapping that reads them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune.data import Row, read_rows
from finetune.data.files import LeftOut
from finetune.data.messages import rows_from
from finetune.data.shapes.columns import as_text, found_at, written
from finetune.data.wrong import WrongField
from finetune.errors import DataError, Problem

sys.path.append(str(Path(__file__).parents[1] / "proof"))

import formats

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
CALL = '{"name": "find", "arguments": {"q": "x"}}'


def made(record: dict[str, Any], columns: dict[str, Any] | None = None, group: str | None = None) -> list[Any]:
    return list(rows_from(record, "f:1", columns, group))  # type: ignore[arg-type]


def said(row: Row) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in row.messages]


@pytest.mark.parametrize(
    ("record", "shape", "roles", "learn_from"),
    [
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, "ShareGPT", "ua", 0),
        ({"messages": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, "ShareGPT", "ua", 0),
        ({"system": "Be brief.", "conversations": [USER, ANSWER]}, "ShareGPT", "sua", 0),
        ({"instruction": "Translate.", "input": "Hi", "output": "Salut"}, "Alpaca", "ua", 1),
        ({"instruction": "Go on.", "output": "Yes.", "history": [["Hi", "Hello"]]}, "Alpaca", "uaua", 3),
        ({"question": "Q?", "answer": "A.", "id": 7}, "question and answer", "ua", 1),
        ({"Question": "Q?", "Answer": 42}, "Question and Answer", "ua", 1),
        ({"chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "No"}]}, "preference", "ua", 1),
        ({"prompt": "Hi", "chosen": "Hello", "rejected": "No"}, "preference", "ua", 1),
        ({"prompt": [USER], "chosen": [ANSWER], "rejected": [ANSWER]}, "preference", "ua", 1),
        ({"chosen_messages": [USER, ANSWER], "rejected_messages": [USER, ANSWER]}, "preference", "ua", 1),
        (
            {
                "conversations": [{"from": "human", "value": "Hi"}],
                "chosen": {"from": "gpt", "value": "Yes"},
                "rejected": {},
            },
            "preference",
            "ua",
            1,
        ),
        (
            {
                "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: And?\n\nAssistant: Fine.",
                "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: And?\n\nAssistant: No.",
            },
            "preference (hh-rlhf)",
            "uaua",
            3,
        ),
        ({"messages": [USER, ANSWER], "label": True}, "messages", "ua", 0),
    ],
)
def test_a_shape_is_recognised(record: dict[str, Any], shape: str, roles: str, learn_from: int) -> None:
    (row,) = made(record)
    assert isinstance(row, Row), row
    assert row.shape == shape
    assert "".join(message["role"][0] for message in row.messages) == roles
    assert row.learn_from == learn_from


@pytest.mark.parametrize(
    "record",
    [
        {"conversations": [USER, ANSWER], "system": 7},
        {"prompt": "Why?", "chosen": "So.", "rejected": "No.", "system": 7},
        {"instruction": "Why?", "output": "So.", "system": 7},
    ],
)
def test_a_system_prompt_that_is_no_text_is_not_lost_in_silence(record: dict[str, Any]) -> None:
    (problem,) = made(record)
    assert isinstance(problem, Problem)
    assert (problem.what, problem.where) == ("content is not text", "f:1  system")
    assert (problem.why, problem.fix) == ("it is a number", '"system": "7"')


def test_a_path_that_looks_up_three_thousand_times_is_told() -> None:
    (problem,) = made({"a": ["x"]}, {"prompt": "a" + "[a]" * 3000, "completion": "a"})
    assert isinstance(problem, Problem)
    assert problem.what == "the path looks up too much"
    assert problem.where == f"f:1  {('a' + '[a]' * 20)[:60]}…"


def test_an_answer_that_is_not_wanted_is_left_out_by_its_label() -> None:
    assert made({"messages": [USER, ANSWER], "label": False}) == [
        LeftOut("labelled false: an answer that is not wanted")
    ]


def test_a_text_is_learnt_as_it_stands() -> None:
    (row,) = made({"text": "Once upon a time.", "url": "http://x.y"})
    assert (row.text, row.messages, row.unread) == ("Once upon a time.", (), ("url",))


def test_sharegpt_calls_and_their_answers_become_tool_calls_and_tool_messages() -> None:
    turns = [("human", "Find x"), ("function_call", CALL), ("observation", "3"), ("gpt", "Three.")]
    tools = json.dumps([{"name": "find", "parameters": {"type": "object"}}])
    (row,) = made({"conversations": [{"from": who, "value": text} for who, text in turns], "tools": tools})
    assert [message["role"] for message in row.messages] == ["user", "assistant", "tool", "assistant"]
    assert row.messages[1]["tool_calls"][0]["function"] == {"name": "find", "arguments": {"q": "x"}}
    assert row.tools[0]["function"]["name"] == "find"


def test_reasoning_and_calls_among_the_parts_get_fields_of_their_own() -> None:
    parts = [{"type": "reasoning", "value": "Look."}, {"type": "tool_call", "value": CALL}]
    chat = [{"role": "user", "content": [{"type": "text", "value": "Find x"}]}, {"role": "assistant", "content": parts}]
    (row,) = made({"messages": chat})
    assert row.messages[0]["content"] == "Find x"
    assert row.messages[1]["reasoning_content"] == "Look."
    assert row.messages[1]["tool_calls"][0]["function"]["name"] == "find"


@pytest.mark.parametrize("key", ["weight", "loss_weight"])
def test_a_message_of_weight_nought_is_context(key: str) -> None:
    (row,) = made({"messages": [USER, {**ANSWER, key: 0}, USER, {**ANSWER, key: 1}]})
    assert row.silent == {1}


def test_what_nobody_answers_is_cut_off_the_end_and_noted() -> None:
    (row,) = made({"messages": [USER, ANSWER, {"role": "user", "content": "Thanks"}]})
    assert (len(row.messages), row.unanswered) == (2, 1)


@pytest.mark.parametrize(
    ("record", "what", "fix"),
    [
        (
            {"context": "C", "question": "Q", "answer": "A"},
            "which column asks and which answers is not certain",
            "data.columns: {prompt: [context, question], completion: answer}",
        ),
        (
            {"question": "Q", "options": ["x", "y"], "answer": "A", "answer_idx": 1},
            "which column asks and which answers is not certain",
            'data.columns: {prompt: [question, options], completion: "options[answer_idx]"}',
        ),
        (
            {"id": 1, "traj": [USER, ANSWER]},
            "which column asks and which answers is not certain",
            "data.columns: {messages: traj}",
        ),
        (
            {"passage": "P", "items": [{"question": "Q", "answer": "A"}]},
            "which column asks and which answers is not certain",
            "data.columns: {each: items, prompt: [passage, question], completion: answer}",
        ),
        ({"id": 1, "question": [[USER]]}, "the rows ask and nobody answers", '{"prompt": "...", "completion": "..."}'),
        ({"id": 1, "ground_truth": [3]}, "the rows answer and nobody asks", '{"prompt": "...", "completion": "..."}'),
    ],
)
def test_what_is_not_certain_is_told_with_a_mapping_that_reads_it(record: dict[str, Any], what: str, fix: str) -> None:
    (problem,) = made(record)
    assert isinstance(problem, Problem)
    assert (problem.what, problem.fix) == (what, fix)
    if fix.startswith("data.columns"):
        (row,) = made(record, formats.pasted(fix))  # type: ignore[arg-type]
        assert isinstance(row, Row), row


# Columns of the recipe


RECORD = {
    "q": "Why?",
    "a b": "So.",
    "n": 3,
    "list": ["x", "y"],
    "table": {"rows": [["a", "b"], [1, 2]]},
    "texts": [{"text": "one"}, {"text": "two"}],
    "marks": [False, True],
    "letter": "B",
    "key": "k",
    "map": {"k": "v"},
    "none": None,
}


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("q", "Why?"),
        ("a b", "So."),
        ("n", "3"),
        ("list", "x\ny"),
        ("table.rows", "a | b\n1 | 2"),
        ("texts.text", "one\ntwo"),
        ("list[marks]", "y"),
        ("list[letter]", "y"),
        ("map[key]", "v"),
        ("map", "k: v"),
        ("none", ""),
        (("q", "none", "a b"), "Why?\n\nSo."),
        ("Q: {q} ({n})", "Q: Why? (3)"),
    ],
)
def test_a_column_is_a_name_a_path_a_choice_a_text_with_places_or_several(column: Any, text: str) -> None:
    assert written(RECORD, column) == text


@pytest.mark.parametrize("column", ["absent", "table.absent", "list[n]", "{absent}"])
def test_a_column_that_is_not_there_is_told(column: str) -> None:
    with pytest.raises(WrongField):
        written(RECORD, column)


def test_a_name_with_a_dot_or_brackets_is_first_of_all_a_name() -> None:
    assert found_at({"a.b[c]": 1}, "a.b[c]") == 1
    assert as_text(True) == "true"


def test_mapped_rows_have_system_reasoning_and_tools_and_say_what_is_not_read() -> None:
    record = {"s": "Brief.", "q": "Why?", "r": "Think.", "a": "So.", "t": [{"name": "find"}], "rest": 1}
    columns = {"system": "s", "prompt": "q", "reasoning": "r", "completion": "a", "tools": "t"}
    (row,) = made(record, columns)
    assert said(row) == [("system", "Brief."), ("user", "Why?"), ("assistant", "So.")]
    assert row.messages[2]["reasoning_content"] == "Think."
    assert (row.learn_from, row.tools[0]["function"]["name"], row.unread) == (2, "find", ("rest",))


def test_a_chat_written_down_line_by_line_is_cut_into_turns() -> None:
    (row,) = made({"log": "Customer: Hi\nthere\nBot: Hello"}, {"messages": "log"})
    assert said(row) == [("user", "Hi\nthere"), ("assistant", "Hello")]


def test_each_element_of_a_list_becomes_a_row() -> None:
    record = {"p": "Passage.", "qa": [{"q": "One?", "a": "1"}, {"q": "Two?", "a": "2"}]}
    rows = made(record, {"each": "qa", "prompt": ("p", "q"), "completion": "a"})
    assert [said(row)[0][1] for row in rows] == ["Passage.\n\nOne?", "Passage.\n\nTwo?"]


# Public files


def test_public_files_are_read_or_say_what_they_lack_and_each_proposal_reads_them(test_data: Path) -> None:
    read = {}
    for file in formats.files(test_data):
        name = str(file.relative_to(test_data))
        if file.stat().st_size > 500_000:  # the long ones are read by `scripts/prove formats`
            continue
        found = formats.look(file, name)
        if found.proposed:
            found = formats.look(file, name, formats.pasted(found.proposed))
        read[name] = (found.rows, found.problems.total())
    assert read["formats_llamafactory/reason_tool_use_demo_50.jsonl"] == (47, 3)
    assert read["finance_banking77/test.csv"] == (3080, 0)
    assert read["legal_lawbench_zh/1-2.json"] == (500, 0)
    assert read["code_humaneval/HumanEval.jsonl.gz"] == (164, 0)
    assert read["medical_medquad_xml/0000008.xml"] == (28, 0)
    assert read["tools_bfcl/BFCL_v4_multiple.json"] == (0, 1)
    nothing = {name for name, (rows, _) in read.items() if not rows and not name.endswith("dataset_info.json")}
    assert {name.split("/")[0] for name in nothing} <= {
        *("cs_taubench", "finance_banking77", "formats_fastchat", "general_ifeval", "medical_pubmedqa", "tools_bfcl")
    }


def test_a_file_whose_rows_have_no_certain_shape_tells_it_once(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"context": "C", "question": "Q", "answer": "A"}\n' * 9)
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path / "rows.jsonl")
    assert [problem.what for problem in caught.value.problems] == [
        "which column asks and which answers is not certain",
    ]
