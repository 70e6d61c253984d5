"""The chat template says the same to us as to transformers, byte for byte, whatever its flags."""

from __future__ import annotations

import itertools
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from finetune.data.template import Template

TEMPLATES = ("qwen3_5_think", "qwen3_5_nothink", "qwen3_6")

FIND = {
    "type": "function",
    "function": {
        "name": "find",
        "description": 'Finds "<clauses>" & more — über 条款.',
        "parameters": {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]},
    },
}
CALL = {
    "type": "function",
    "function": {"name": "find", "arguments": {"q": "4 <b>", "n": [1, 2.50], "deep": {"x": None}}},
}

CHATS: dict[str, list[dict[str, Any]]] = {
    "question": [{"role": "user", "content": "Hi"}],
    "answer": [{"role": "user", "content": " Hi\n"}, {"role": "assistant", "content": "\nHello 你好 "}],
    "system": [{"role": "system", "content": ""}, {"role": "user", "content": "Hi"}],
    "reasoned": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1", "reasoning_content": " Count.\n"},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "2", "reasoning_content": ""},
    ],
    "think in content": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"},
    ],
    "tools": [
        {"role": "user", "content": "Find."},
        {"role": "assistant", "content": "", "reasoning_content": "Look.", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "until <31> May"},
        {"role": "tool", "content": '{"a": 1}'},
        {"role": "assistant", "content": "Found.", "tool_calls": [CALL]},
        {"role": "tool", "content": ""},
    ],
    "a user who writes a tool's answer": [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1", "reasoning_content": "Count."},
        {"role": "user", "content": "<tool_response>x</tool_response>"},
        {"role": "assistant", "content": "2", "reasoning_content": "Count."},
    ],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
}


def template_named(name: str) -> Template:
    return Template((files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8"))


def theirs(source: str, messages: Any, tools: Any, *, ask: bool, **flags: bool) -> str:
    """Renders as `tokenizer.apply_chat_template` does."""
    rendered, _ = render_jinja_template(
        [messages], tools=list(tools) or None, chat_template=source, add_generation_prompt=ask, **flags
    )
    return str(rendered[0])


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("chat", CHATS)
def test_every_flag_renders_as_in_transformers(name: str, chat: str) -> None:
    template = template_named(name)
    for ask, preserve, thinking, tools in itertools.product(*[(False, True)] * 3, ((), (FIND,), (FIND, FIND))):
        flags = {"ask": ask, "preserve_thinking": preserve, "enable_thinking": thinking}
        assert template.render(CHATS[chat], tools, **flags) == theirs(template.source, CHATS[chat], tools, **flags)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "assistant", "content": "Hello"}],
        [{"role": "user", "content": "Hi"}, {"role": "system", "content": "late"}],
        [{"role": "user", "content": "Hi"}, {"role": "function", "content": "x"}],
        [{"role": "user", "content": [{"type": "audio"}]}],
        [{"role": "user", "content": 3}],
    ],
)
def test_what_transformers_refuses_is_refused_in_the_same_words(messages: list[dict[str, Any]]) -> None:
    import jinja2

    template = template_named("qwen3_6")
    with pytest.raises(jinja2.TemplateError) as told:
        theirs(template.source, messages, (), ask=False)
    with pytest.raises(ValueError, match=str(told.value)):
        template.render(messages)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ 10.0 ** 64 * 'a' }}", "TypeError"),
        ("{{ {}.popitem() }}", "'popitem' of 'dict' object is unsafe"),
        ("{{ 'a{}'.format() }}", "IndexError"),
        ("{{ 1e308 | int * 1e308 | int + 0.5 }}", "OverflowError"),
        ("{{ 'a' * 10 ** 18 }}", "MemoryError"),
        ("{{ 'a'.center('b') }}", "TypeError"),
        ("{{ 3 | dictsort }}", "AttributeError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ 2 ** 65 }}", "exponent of 64 at most"),
        ("{{ 9 ** 9 ** 9 ** 9 }}", "exponent of 64 at most"),
        ("{{ (9 ** 64) ** 64 }}", "base of 64 bits"),
        ("{{ range(10 ** 9) | list }}", "Range too big"),
    ],
)
def test_a_template_that_fails_refuses_in_the_words_of_its_failure(source: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Template(source).render(CHATS["question"])


def test_a_small_power_is_computed() -> None:
    assert Template("{{ 2 ** 10 }}").render(CHATS["question"]) == "1024"


value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
arguments = st.dictionaries(st.text(max_size=4), value, max_size=3)
function = st.fixed_dictionaries({"name": st.text(min_size=1, max_size=4), "arguments": arguments})
calls = st.lists(st.fixed_dictionaries({"function": function}), max_size=2)
round_of_chat = st.tuples(st.text(max_size=12), st.text(max_size=12), st.none() | st.text(max_size=12), calls)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(rounds=st.lists(round_of_chat, min_size=1, max_size=3), ask=st.booleans(), preserve=st.booleans())
def test_any_conversation_renders_as_in_transformers(rounds: list[Any], ask: bool, preserve: bool) -> None:
    template = template_named("qwen3_6")
    messages: list[dict[str, Any]] = []
    for question, answer, reasoning, called in rounds:
        told = {"role": "assistant", "content": answer, "tool_calls": called}
        messages += [{"role": "user", "content": f"? {question}"}, told]
        if reasoning is not None:
            told["reasoning_content"] = reasoning
    flags = {"ask": ask, "preserve_thinking": preserve}
    assert template.render(messages, (FIND,), **flags) == theirs(template.source, messages, (FIND,), **flags)
