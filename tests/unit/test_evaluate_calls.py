"""Tool calls that the template writes are read back as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.reading import read_rows
from finetune.data.template import Template
from finetune.evaluate.calls import NotACall, by_calls, calls_in, same_call, typed


@pytest.fixture(scope="module")
def template() -> Template:
    import importlib.util

    found = importlib.util.find_spec("trl")
    assert found is not None
    assert found.origin is not None
    return Template((Path(found.origin).parent / "chat_templates" / "qwen3_6.jinja").read_text(encoding="utf-8"))


def written(template: Template, calls: list[dict[str, Any]], content: str = "") -> str:
    """Writes an assistant's turn as the template does, and takes it out of the text."""
    asked = [{"role": "user", "content": "?"}]
    text = template.render([*asked, {"role": "assistant", "content": content, "tool_calls": calls}])
    prompt = template.render(asked, ask=True, enable_thinking=False)
    assert text.startswith(prompt)
    return text.removeprefix(prompt).removesuffix("<|im_end|>\n")


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


NAMES = st.from_regex(r"[a-z][a-z0-9_.-]{0,12}", fullmatch=True)
TEXTS = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="<>"), max_size=20
) | st.sampled_from(["two\nlines", "5", "true", '{"a": 1}', "", "a < b > c", "x\n\ny", "</parameter>", "</function>"])
VALUES = st.recursive(
    TEXTS | st.integers(-(10**9), 10**9) | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
CALLS = st.lists(st.tuples(NAMES, st.dictionaries(NAMES, VALUES, max_size=4)), min_size=1, max_size=3)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(told=CALLS, content=st.sampled_from(["", "I will look.", "First:\nthen"]))
def test_any_call_is_read_back(template: Template, told: list[tuple[str, dict[str, Any]]], content: str) -> None:
    calls = [call(name, **arguments) for name, arguments in told]
    said, found = calls_in(written(template, calls, content))
    assert said == content
    assert [each.name for each in found] == [name for name, _ in told]
    assert all(same_call(each, *pair) for each, pair in zip(found, told, strict=True))
    assert by_calls(written(template, calls, content), calls)[0].right
    tools = [tool(name, arguments) for name, arguments in told]
    for each, (name, arguments) in zip(found, told, strict=True):
        last = next(t for t in reversed(tools) if t["function"]["name"] == name)
        if last == tool(name, arguments):  # the same name may be called twice with other types
            assert typed(each, [last]) == arguments


def tool(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A tool whose parameters have the types of these arguments."""
    kinds = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
    properties = {key: {"type": kinds.get(type(value), "null")} for key, value in arguments.items()}
    return {"function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


def test_real_calls_are_read_back(template: Template, test_data: Path) -> None:
    rows = read_rows(test_data / "cs_taubench" / "gpt-4o-airline.first60.json", {"messages": "traj"})
    rows += read_rows(test_data / "formats_llamafactory" / "glaive_toolcall_en_demo.json")
    seen = 0
    for calls in (m["tool_calls"] for row in rows for m in row.messages if m.get("tool_calls")):
        _, found = calls_in(written(template, calls))
        for each, told in zip(found, calls, strict=True):
            assert same_call(each, told["function"]["name"], told["function"]["arguments"])
            seen += 1
    assert seen > 300


@pytest.mark.parametrize(
    ("made", "right", "why"),
    [
        ([call("find", city="Oslo", days=3)], True, ""),
        ([call("find", days=3.0, city="Oslo ")], True, ""),
        ([call("find", city="Oslo", days="3")], True, ""),  # the template writes both as 3
        ([call("find", city="Oslo", days=4)], False, "other arguments in 1 of 1 calls"),
        ([call("find", city="Oslo")], False, "other arguments in 1 of 1 calls"),
        ([call("look", city="Oslo", days=3)], False, "calls another tool"),
        ([call("find", city="Oslo", days=3)] * 2, False, "2 calls, not 1"),
        ([], False, "calls nothing"),
    ],
)
def test_name_and_arguments_must_be_equal(template: Template, made: list[Any], right: bool, why: str) -> None:
    found, hits = by_calls(written(template, made) if made else "Oslo is nice.", [call("find", city="Oslo", days=3)])
    assert (found.right, found.why) == (right, why)
    assert hits == (right or len(made) == 2)


def test_parallel_calls_count_in_any_order_and_each_once(template: Template) -> None:
    one, two = call("f", x=1), call("f", x=2)
    assert by_calls(written(template, [two, one]), [one, two]) == (by_calls("", [])[0], 2)
    assert by_calls(written(template, [one, one]), [one, two])[1] == 1


def test_where_no_call_is_expected_none_is_right(template: Template) -> None:
    assert by_calls("Just words.", [])[0].right
    assert by_calls(written(template, [call("f")]), [])[0].why == "calls where it should answer"


@pytest.mark.parametrize(
    "said",
    [
        "<tool_call>",
        "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n",
        "<tool_call>\n<function=f>\n</function>\n</tool_call>\nand words after it",
        '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>',
        "<tool_call>\n<function=f>\nloose\n</function>\n</tool_call>",
        "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n<parameter=a>\n2\n</parameter>\n</function>\n</tool_call>",
    ],
)
def test_what_is_not_written_as_a_call_is_none(said: str) -> None:
    with pytest.raises(NotACall):
        calls_in(said)
    assert not by_calls(said, [])[0].right
    assert json.dumps(by_calls(said, [call("f")])[0].why) != '""'
