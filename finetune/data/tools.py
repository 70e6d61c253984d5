"""Tools on offer and calls of them, normalised: arguments are objects, names are known."""

from __future__ import annotations

import difflib
import json
from typing import Any

from finetune.data.wrong import WrongField


def offered_tools(value: Any) -> tuple[dict[str, Any], ...]:
    """Normalises the tools on offer to the OpenAI form."""
    if isinstance(value, str):
        try:
            value = json.loads(value or "[]")
        except json.JSONDecodeError as error:
            raise WrongField(
                "tools",
                "tools is text that is not JSON",
                f"{error.msg} at column {error.colno}",
                '"tools": [{"type": "function", ...}]',
            ) from None
    if value is None:
        return ()
    if not isinstance(value, list):
        raise WrongField(
            "tools",
            "tools is not a list",
            f"it is a {type(value).__name__}",
            '"tools": [{"type": "function", ...}]',
        )
    tools = []
    for i, tool in enumerate(value):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise WrongField(
                f"tools[{i}]",
                "a tool has no name",
                "",
                '{"type": "function", "function": {"name": "...", "parameters": {}}}',
            )
        tools.append(tool if "function" in tool else {"type": "function", "function": tool})
    return tuple(tools)


def tool_calls(value: Any, field: str, tools: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    """Normalises tool calls: names known, arguments objects."""
    if not isinstance(value, list):
        raise WrongField(
            field,
            "tool_calls is not a list",
            f"it is a {type(value).__name__}",
            '"tool_calls": [{"type": "function", ...}]',
        )
    known = [tool["function"]["name"] for tool in tools]
    calls = []
    for i, call in enumerate(value):
        function = call.get("function", call) if isinstance(call, dict) else None
        place = f"{field}[{i}].function"
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise WrongField(
                place,
                "a tool call has no name",
                "",
                '{"type": "function", "function": {"name": "...", "arguments": {}}}',
            )
        if known and function["name"] not in known:
            close = difflib.get_close_matches(function["name"], known, n=1, cutoff=0)
            raise WrongField(
                f"{place}.name",
                f"no tool is called {function['name']}",
                f"the row's tools are {', '.join(known)}",
                f'"name": "{close[0]}"',
            )
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except json.JSONDecodeError as error:
                raise WrongField(
                    f"{place}.arguments",
                    "the arguments are not JSON",
                    f"{error.msg} at column {error.colno}",
                    '"arguments": {"key": "value"}',
                ) from None
        if not isinstance(arguments, dict):
            raise WrongField(
                f"{place}.arguments",
                "the arguments are not an object",
                f"they are a {type(arguments).__name__}",
                '"arguments": {"key": "value"}',
            )
        told: dict[str, Any] = {
            "type": "function",
            "function": {"name": function["name"], "arguments": arguments},
        }
        if call.get("id"):
            told["id"] = call["id"]
        calls.append(told)
    return calls
