"""Rows that are broken at random: every one is refused in our words, or becomes a row that can be rendered."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data import read_rows
from finetune.errors import DataError

ROW: dict[str, Any] = {
    "tools": [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}],
    "messages": [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": [{"type": "text", "text": "Where?"}]},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Look it up.",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"q": "x"}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": '{"row": 3}'},
        {"role": "assistant", "content": "<think>Row 3.</think>In row 3."},
    ],
}
PAIR = {"prompt": [{"role": "user", "content": "Hi"}], "completion": "Hello"}

WORDS = ["role", "content", "user", "assistant", "tool", "function", "name", "arguments", "tool_calls", "text", "from"]
WORDS += ["reasoning_content", "<think>", "</think>", "<|im_start|>", "", " ", "\ud800", "\ue000", "{}", "[", "null"]

DIGITS = "5000 digits"  # becomes a number of as many

junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(WORDS)
    | st.text(max_size=5)
    | st.just(DIGITS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=3), inner),
    max_leaves=6,
)


@st.composite
def mutants(draw: st.DrawFn) -> str:
    """Replaces, deletes, renames or doubles values deep in a row; then perhaps bytes of its text."""
    row: Any = copy.deepcopy(draw(st.sampled_from([ROW, PAIR])))
    for _ in range(draw(st.integers(1, 4))):
        holder: Any = row
        while True:
            places = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not places:
                break
            place = draw(st.sampled_from(places))
            inner = holder[place]
            if isinstance(inner, dict | list) and draw(st.booleans()):
                holder = inner
                continue
            change = draw(st.sampled_from(["replace", "delete", "rename", "double"]))
            if change == "delete":
                del holder[place]
            elif change == "rename" and isinstance(holder, dict):
                holder[draw(st.sampled_from(WORDS))] = holder.pop(place)
            elif change == "double" and isinstance(holder, list):
                holder.insert(place, copy.deepcopy(inner))
            else:
                holder[place] = draw(junk)
            break
    text = json.dumps(row).replace("Infinity", "1e999").replace(f'"{DIGITS}"', "7" * 5000)
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(["", ",", "}", "{", '"', "\\", "\0", "\t"])) + text[at + 1 :]
    return text


@settings(max_examples=500, deadline=None, derandomize=True)
@given(text=mutants())
def test_a_mutated_row_is_read_or_told_with_place_and_fix(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "rows.jsonl"
    file.write_bytes(text.encode("utf-8", "surrogatepass") + b"\n")
    try:
        (row,) = read_rows(file)
    except DataError as error:
        for problem in error.problems[:1]:
            assert problem.where.startswith(str(file))
            assert problem.what
            assert problem.why
            assert problem.fix
    else:
        json.dumps([row.messages, row.tools], allow_nan=False, ensure_ascii=False).encode()
        assert row.text or row.messages[-1]["role"] == "assistant"
        assert {type(m["content"]) for m in row.messages} <= {str}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(raw=st.binary(max_size=200) | st.lists(st.binary(max_size=20), max_size=9).map(b"\n".join))
def test_random_bytes_are_read_or_told_with_place_and_fix(raw: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "bytes.jsonl"
    file.write_bytes(raw)
    with pytest.raises(DataError) as caught:
        read_rows(file)
    for problem in caught.value.problems:
        assert problem.where.startswith(str(file)) or problem.what.startswith("and ")
        assert problem.fix or problem.what.startswith("and ")
