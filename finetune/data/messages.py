"""What a row must be: messages in an order that a chat can have, or a prompt and its completion.

Everything is normalised here once (tool arguments are objects, content is text, reasoning has its own field),
so that rendering has nothing left to decide.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from finetune.data.dialects import MESSAGE_KEYS, ROLES, mapping_for, unknown_field, unknown_role
from finetune.data.tools import offered_tools, tool_calls
from finetune.data.wrong import WrongField
from finetune.errors import Problem

ROW_KEYS = ("messages", "tools", "prompt", "completion")

Message = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One conversation, normalised."""

    place: str
    """`file:line` of where it stands."""
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    learn_from: int = 0
    """Index of the first message that may be learnt; what comes before is prompt."""
    unread: tuple[str, ...] = ()
    """Columns of the row that mean nothing here."""

    @property
    def fingerprint(self) -> str:
        """The sha256 of what the row says, the same wherever it stands."""
        told = json.dumps([self.messages, self.tools, self.learn_from], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(told.encode()).hexdigest()


def row_from(value: dict[str, Any], place: str) -> Row | list[Problem]:
    """Makes a Row of a parsed line, or says what is wrong with it, the first problem of each kind."""
    try:
        tools = offered_tools(value.get("tools"))
        messages, learn_from = _conversation(value)
        told = tuple(_message(m, f"messages[{i}]", tools) for i, m in enumerate(messages))
        _check_order(told)
    except WrongField as wrong:
        return [Problem(wrong.what, f"{place}  {wrong.field}", wrong.why, wrong.fix)]
    return Row(place, told, tools, learn_from, tuple(k for k in value if k not in ROW_KEYS))


def _conversation(value: dict[str, Any]) -> tuple[list[Any], int]:
    """Finds the conversation in a row, and the first message of it that may be learnt."""
    if "messages" in value:
        if "prompt" in value or "completion" in value:
            raise WrongField(
                "messages", "the row has messages and a prompt", "one of them would be ignored", "keep one"
            )
        return _list(value["messages"], "messages"), 0
    if "prompt" in value and "completion" in value:
        prompt = _turns(value["prompt"], "prompt", "user")
        return prompt + _turns(value["completion"], "completion", "assistant"), len(prompt)
    if "prompt" in value or "completion" in value:
        missing = "completion" if "prompt" in value else "prompt"
        raise WrongField(
            missing,
            f"the row has no {missing}",
            "a prompt and its completion come together",
            f'"{missing}": "..."',
        )
    raise WrongField(
        ", ".join(list(value)[:6]) or "(empty)",
        "the row has neither messages nor prompt and completion",
        *mapping_for(value),
    )


def _turns(value: Any, field: str, role: str) -> list[Any]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return _list(value, field)


def _list(value: Any, field: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        kind = "an empty list" if value == [] else f"a {type(value).__name__}"
        fix = '"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'
        raise WrongField(field, f"{field} is {kind}", "it must be a list of messages", fix)
    return value


def _message(value: Any, field: str, tools: tuple[dict[str, Any], ...]) -> Message:
    """Checks and normalises one message."""
    if not isinstance(value, dict):
        raise WrongField(
            field,
            "a message is an object",
            f"it is a {type(value).__name__}",
            '{"role": "user", "content": "..."}',
        )
    role = value.get("role")
    if role not in ROLES:
        raise WrongField(f"{field}.role", *unknown_role(role))
    for key, inner in value.items():
        if key not in MESSAGE_KEYS and inner not in (None, [], {}, ""):
            raise WrongField(f"{field}.{key}", *unknown_field(key))
    message: Message = {
        "role": role,
        "content": _content(value.get("content"), field, role, bool(value.get("tool_calls"))),
    }
    if role == "assistant":
        reasoning = value.get("reasoning_content")
        if reasoning is not None and not isinstance(reasoning, str):
            raise WrongField(
                f"{field}.reasoning_content",
                "reasoning_content is not text",
                f"it is a {type(reasoning).__name__}",
                '"reasoning_content": "..."',
            )
        if reasoning is None:
            reasoning, message["content"] = _split_reasoning(message["content"], field)
        if reasoning and reasoning.strip():
            message["reasoning_content"] = reasoning.strip()
        if value.get("tool_calls"):
            message["tool_calls"] = tool_calls(value["tool_calls"], f"{field}.tool_calls", tools)
        if not message["content"].strip() and "tool_calls" not in message:
            raise WrongField(
                f"{field}.content",
                "the assistant says nothing",
                "an empty answer teaches silence",
                "remove the row, or write the answer",
            )
    elif value.get("tool_calls") or value.get("reasoning_content"):
        raise WrongField(
            field,
            f"a {role} message has tool_calls or reasoning_content",
            "only the assistant calls and reasons",
            '"role": "assistant"',
        )
    elif role == "user" and not message["content"].strip():
        raise WrongField(
            f"{field}.content",
            "the user says nothing",
            "there is no question to answer",
            "remove the row, or write the question",
        )
    if role == "tool" and value.get("tool_call_id"):
        message["tool_call_id"] = value["tool_call_id"]
    return message


def _content(value: Any, field: str, role: str, calls: bool) -> str:
    """Gives content as text: a string, or the texts of its parts joined."""
    if isinstance(value, str):
        return value
    if value is None:
        if role == "assistant" and calls:
            return ""
        raise WrongField(
            f"{field}.content",
            f"the {role} message has no content",
            "content is null or missing",
            '"content": "..."',
        )
    if isinstance(value, list):
        for i, part in enumerate(value):
            if (
                not isinstance(part, dict)
                or part.get("type", "text") != "text"
                or not isinstance(part.get("text"), str)
            ):
                kind = part.get("type") if isinstance(part, dict) else type(part).__name__
                raise WrongField(
                    f"{field}.content[{i}]",
                    f"content of type {kind} is not text",
                    "training is on text only",
                    '{"type": "text", "text": "..."}',
                )
        return "".join(part["text"] for part in value)
    fix = "json.dumps(content)" if isinstance(value, dict) else f'"content": "{value}"'
    raise WrongField(f"{field}.content", "content is not text", f"it is a {type(value).__name__}", fix)


def _split_reasoning(content: str, field: str) -> tuple[str, str]:
    """Takes reasoning out of content that begins with `<think>…</think>`."""
    text = content.lstrip()
    if not text.startswith("<think>"):
        return "", content
    reasoning, end, answer = text.removeprefix("<think>").partition("</think>")
    if not end:
        raise WrongField(
            f"{field}.content",
            "<think> is never closed",
            "the answer would be part of the reasoning",
            "close it with </think>, or use reasoning_content",
        )
    return reasoning, answer.lstrip("\n")


def _check_order(messages: tuple[Message, ...]) -> None:
    """Checks that the roles follow one another as in a chat."""
    before, open_calls = "", 0
    for i, message in enumerate(messages):
        role, place = message["role"], f"messages[{i}].role"
        if role == "system" and i > 0:
            raise WrongField(
                place,
                "the system message is not the first",
                "",
                "move it to the front, or join it with the first",
            )
        if role == before and role != "tool":
            raise WrongField(
                place,
                f"two {role} messages in a row",
                "each side waits for the other",
                "join them into one message",
            )
        if role == "tool":
            if open_calls == 0:
                raise WrongField(
                    place,
                    "a tool answers a call that nobody made",
                    "it must follow an assistant's tool_calls",
                    "put tool_calls on the assistant's message before it",
                )
            open_calls -= 1
        elif open_calls:
            raise WrongField(
                place,
                f"{open_calls} tool call(s) were not answered",
                f"a {role} message follows",
                "put a tool message for each call before it",
            )
        if role == "assistant":
            if before in ("", "system"):
                raise WrongField(
                    place,
                    "the assistant speaks first",
                    "there is no question to answer",
                    'begin with {"role": "user", ...}',
                )
            open_calls = len(message.get("tool_calls", ()))
        before = role
    if before != "assistant":
        last = len(messages) - 1
        raise WrongField(
            f"messages[{last}].role",
            f"the conversation ends with the {before}",
            "only the assistant's words are learnt",
            "add the assistant's answer, or remove the last message",
        )
