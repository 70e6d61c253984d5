"""Tools on offer and calls of them, normalised: arguments are objects, names are known."""

from __future__ import annotations

import difflib
from typing import Any

from finetune.data.strict_json import WrongJson, kind, read_json
from finetune.data.wrong import WrongField

TOOL = '{"type": "function", "function": {"name": "...", "parameters": {}}}'
CALL = '{"type": "function", "function": {"name": "...", "arguments": {}}}'


def offered_tools(value: Any, field: str = "tools") -> tuple[dict[str, Any], ...]:
    """Normalises the tools on offer to the OpenAI form.

    Args:
        value: what stands in the row; it may be JSON as text.
        field: what to call it in an error.

    Raises:
        WrongField: naming the field.
    """
    fix = f'"{field}": [{TOOL}]'
    if isinstance(value, str):
        value = _from_text(value.strip() or "[]", field, f"{field} is text that is not JSON", fix)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise WrongField(field, f"{field} is not a list", f"it is {kind(value)}", fix)
    return tuple(
        {"type": "function", "function": function} if function is tool else tool
        for i, tool in enumerate(value)
        for function in [_function(tool, f"{field}[{i}]", "a tool", TOOL)]
    )


def tool_calls(value: Any, field: str, tools: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    """Normalises tool calls: names known, arguments objects.

    Raises:
        WrongField: naming the field.
    """
    if not isinstance(value, list):
        raise WrongField(field, "tool_calls is not a list", f"it is {kind(value)}", f'"tool_calls": [{CALL}]')
    known = [tool["function"]["name"] for tool in tools]
    calls = []
    for i, call in enumerate(value):
        place = f"{field}[{i}].function"
        function = _function(call, place, "a tool call", CALL)
        _check_name(function["name"], known, f"{place}.name")
        arguments = _arguments(function.get("arguments", {}), f"{place}.arguments")
        told: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
        if call.get("id"):
            told["id"] = call["id"]
        calls.append(told)
    return calls


def _function(value: Any, field: str, noun: str, fix: str) -> dict[str, Any]:
    """Finds the function in a tool or a call, which may be wrapped in `function` or stand bare."""
    if not isinstance(value, dict):
        raise WrongField(field, f"{noun} is an object", f"it is {kind(value)}", fix)
    function = value.get("function", value)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise WrongField(field, f"{noun} has no name", "a function is called by its name", fix)
    return function


def _check_name(name: str, known: list[str], field: str) -> None:
    if name in known or not known:
        return
    close = difflib.get_close_matches(name, known, n=1, cutoff=0)
    why = f"the row's tools are {', '.join(known[:8])}" + (", ..." if len(known) > 8 else "")
    raise WrongField(field, f"no tool is called {name}", why, f'"name": "{(close or known)[0]}"')


def _arguments(value: Any, field: str) -> dict[str, Any]:
    """Gives the arguments of a call as an object; many write them as text."""
    fix = '"arguments": {"key": "value"}'
    if isinstance(value, str):
        value = _from_text(value or "{}", field, "the arguments are not JSON", fix)
    if not isinstance(value, dict):
        raise WrongField(field, "the arguments are not an object", f"they are {kind(value)}", fix)
    return value


def _from_text(text: str, field: str, what: str, fix: str) -> Any:
    """Reads JSON that stands as text inside JSON."""
    try:
        return read_json(text)
    except WrongJson as error:
        raise WrongField(field, what, error.why, fix) from None
