"""What is held out follows from what the rows say, and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data import Row, count_rows, read_rows, read_split
from finetune.recipe import load


def split(folder: Path, lines: list[str], share: float = 0.3) -> tuple[list[Row], list[Row]]:
    folder.mkdir(exist_ok=True)
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "recipe.yaml").write_text(f"base: a/b\ndata: {{train: rows.jsonl, eval: {share}}}\n")
    return read_split(load(folder / "recipe.yaml"))


def pair(number: int) -> str:
    return json.dumps({"prompt": f"What is {number}?", "completion": f"{number} is a number."})


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    numbers=st.lists(st.integers(0, 30), min_size=2, max_size=40).filter(lambda them: len(set(them)) > 1),
    share=st.floats(0.01, 0.5),
    random=st.randoms(use_true_random=False),
)
def test_a_share_is_the_same_whatever_the_order_and_never_cuts_equal_rows_apart(
    numbers: list[int], share: float, random: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "split"
    train, held = split(folder, [pair(n) for n in numbers], share)
    shuffled = random.sample(numbers, len(numbers))
    train_again, held_again = split(folder, [pair(n) for n in shuffled], share)
    learnt, tested = {row.fingerprint for row in train}, {row.fingerprint for row in held}
    assert not learnt & tested
    assert (learnt, tested) == ({r.fingerprint for r in train_again}, {r.fingerprint for r in held_again})
    assert len(train) + len(held) == len(numbers)
    assert len(tested) == max(1, round(share * len(set(numbers))))


def test_one_more_row_moves_few_others(tmp_path: Path) -> None:
    _, held = split(tmp_path, [pair(n) for n in range(100)], 0.1)
    _, held_later = split(tmp_path, [pair(n) for n in range(101)], 0.1)
    assert len({r.fingerprint for r in held} & {r.fingerprint for r in held_later}) >= len(held) - 1


SAME = [
    {"prompt": "Hi", "completion": "Hello"},
    {"completion": "Hello", "prompt": "Hi", "id": 7},
    {"prompt": "Hi\n", "completion": " Hello"},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
    {"messages": [{"content": [{"text": "Hi"}], "role": "user"}, {"role": "assistant", "content": "Hello"}]},
    {"prompt": [{"role": "user", "content": "Hi"}], "completion": "Hello", "tools": []},
]  # fmt: skip
OTHER = [
    {"prompt": "Hi", "completion": "Hello!"},
    {"prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": "Hi"}], "completion": "Hello"},
    {"prompt": "Hi", "completion": "<think>hm</think>Hello"},
    {"prompt": "Hi", "completion": "Hello", "tools": [{"name": "find"}]},
]


def test_a_fingerprint_is_of_the_conversation_and_not_of_its_form(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in SAME + OTHER))
    marks = [row.fingerprint for row in read_rows(file)]
    assert len(set(marks[: len(SAME)])) == 1
    assert len(set(marks)) == 1 + len(OTHER)


def test_a_file_of_its_own_is_held_out_whole_and_zero_holds_out_nothing(tmp_path: Path) -> None:
    train, held = split(tmp_path, [pair(n) for n in range(9)], 0)
    assert (len(train), held) == (9, [])
    (tmp_path / "held.jsonl").write_text(f"{pair(1)}\n{pair(50)}\n")
    recipe = load(tmp_path / "recipe.yaml", [f"data.eval={tmp_path / 'held.jsonl'}"])
    train, held = read_split(recipe)
    assert (len(train), [row.messages[0]["content"] for row in held]) == (9, ["What is 1?", "What is 50?"])
    counts = count_rows(recipe)
    assert (counts.rows, counts.held_out_rows, counts.tokens) == (9, 2, None)


@pytest.mark.parametrize(
    ("row", "roles", "learn_from"),
    [
        ({"prompt": "a", "completion": "b"}, "user assistant", 1),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "user assistant", 0),
        (
            {
                "prompt": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "b"},
                    {"role": "user", "content": "c"},
                ],
                "completion": [{"role": "assistant", "content": "d"}],
            },
            "user assistant user assistant",
            3,
        ),
    ],
)
def test_a_completion_is_learnt_and_its_prompt_is_not(
    row: dict[str, Any], roles: str, learn_from: int, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    (read,) = read_rows(tmp_path / "rows.jsonl")
    assert " ".join(message["role"] for message in read.messages) == roles
    assert read.learn_from == learn_from


def test_what_can_be_written_in_several_ways_becomes_one(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"q": "x", "n": 3}'}}
    row = {
        "tools": json.dumps([{"name": "find", "parameters": {}}]),
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Whe"}, {"text": "re?"}]},
            {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
            {"role": "tool", "tool_call_id": "c1", "content": ""},
            {"role": "assistant", "content": "\n<think>\nRow 3.\n</think>\n\nThere.", "reasoning_content": ""},
        ],
        "source": "ticket 12",
    }
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(row).encode() + b"\r\n")
    (read,) = read_rows(tmp_path / "rows.jsonl")
    user, calling, answer, last = read.messages
    assert read.tools == ({"type": "function", "function": {"name": "find", "parameters": {}}},)
    assert user == {"role": "user", "content": "Where?"}
    assert calling["content"] == ""
    assert calling["tool_calls"][0]["function"] == {"name": "find", "arguments": {"q": "x", "n": 3}}
    assert answer == {"role": "tool", "content": "", "tool_call_id": "c1"}
    assert last == {"role": "assistant", "content": "There.", "reasoning_content": "Row 3."}
    assert read.unread == ("source",)
