"""Reads tool calls back from an answer, as Qwen3.6's template writes them, and compares them with the expected ones.

    <tool_call>
    <function=NAME>
    <parameter=KEY>
    value, over as many lines as it has
    </parameter>
    </function>
    </tool_call>

The template writes a text as it stands and anything else as JSON, so `5` may be the number or the text: which, the
tool's schema tells. Where an expected call is compared, its own value does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.evaluate.scores import Scored, same_json

BEGINS, ENDS = "<tool_call>", "</tool_call>"

_CALL = re.compile(r"<tool_call>\s*<function=([^>\n]+)>[ \t]*\n?(.*?)</function>\s*</tool_call>", re.DOTALL)
_PARAMETER = re.compile(
    r"[ \t]*<parameter=([^>\n]+)>[ \t]*\n?(.*?)\n?</parameter>\s*(?=<parameter=|\Z)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Call:
    """A call as it was written; each argument is still its text."""

    name: str
    arguments: Mapping[str, str]


class NotACall(ValueError):
    """An answer begins a call that is none."""


def calls_in(said: str) -> tuple[str, list[Call]]:
    """Reads an answer.

    Args:
        said: the answer, without its reasoning.

    Returns:
        The text before the first call, and the calls in their order.

    Raises:
        NotACall: a call is not written as one, or something follows the calls.
    """
    text, begun, rest = said.partition(BEGINS)
    if not begun:
        return said.strip(), []
    rest, calls = begun + rest, []
    while rest.strip():
        found = _CALL.match(rest.lstrip())
        if found is None:
            raise NotACall("a tool call is not written as one")
        calls.append(Call(found[1].strip(), _arguments(found[2])))
        rest = rest.lstrip()[found.end() :]
    return text.strip(), calls


def _arguments(body: str) -> dict[str, str]:
    """Reads the parameters of a call.

    Raises:
        NotACall: something else stands among them, or one stands twice.
    """
    arguments: dict[str, str] = {}
    at = 0
    while body[at:].strip():
        found = _PARAMETER.match(body, at)
        if found is None or found[1] in arguments:
            raise NotACall("a parameter is not written as one")
        arguments[found[1]] = found[2]
        at = found.end()
    return arguments


def typed(call: Call, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Gives the arguments of a call as values, as the tool's own schema has them.

    A parameter that may be a text and something else is read as JSON where it is JSON; one that no schema names too.

    Args:
        call: as it was written.
        tools: on offer, in OpenAI's form.
    """
    named = {tool["function"]["name"]: tool["function"] for tool in tools}
    schema = named.get(call.name, {}).get("parameters") or {}
    properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
    return {key: _value(text, properties.get(key)) for key, text in call.arguments.items()}


def _value(text: str, schema: Any) -> Any:
    if isinstance(schema, dict) and schema.get("type") in ("string", ["string"]):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def same_call(call: Call, name: str, arguments: Mapping[str, Any]) -> bool:
    """Compares a written call with an expected one: the same name, the same keys, equal values."""
    if call.name != name or call.arguments.keys() != arguments.keys():
        return False
    return all(_same_value(call.arguments[key], value) for key, value in arguments.items())


def _same_value(text: str, value: Any) -> bool:
    if isinstance(value, str):
        return text.strip() == value.strip()
    try:
        return same_json(json.loads(text), value)
    except (ValueError, RecursionError):
        return False


def by_calls(said: str, expected: Sequence[Mapping[str, Any]]) -> tuple[Scored, int]:
    """Compares the calls of an answer with the expected ones, in any order; where none is expected, none is right.

    Args:
        said: the answer.
        expected: calls as rows hold them, normalised.

    Returns:
        The score of the answer, and how many of the expected calls were made.
    """
    try:
        _, made = calls_in(said)
    except NotACall as wrong:
        return Scored(False, str(wrong)), 0
    left = list(made)
    for call in expected:
        function = call["function"]
        found = next((each for each in left if same_call(each, function["name"], function["arguments"])), None)
        if found is not None:
            left.remove(found)
    hits = len(made) - len(left)
    if hits == len(expected) == len(made):
        return Scored(True), hits
    return Scored(False, _what_differs(made, expected, hits)), hits


def _what_differs(made: Sequence[Call], expected: Sequence[Mapping[str, Any]], hits: int) -> str:
    """Says in a few words what is wrong with the calls."""
    if not made:
        return "calls nothing"
    if not expected:
        return "calls where it should answer"
    names = [call["function"]["name"] for call in expected]
    if sorted(call.name for call in made) != sorted(names):
        return "calls another tool" if len(made) == len(names) else f"{len(made)} calls, not {len(names)}"
    return f"other arguments in {len(names) - hits} of {len(names)} calls"
