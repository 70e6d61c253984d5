"""One message of a row: checked, and brought to the one form that is rendered."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from finetune.data.dialects import MESSAGE_KEYS, ROLES, unknown_field, unknown_role
from finetune.data.strict_json import kind
from finetune.data.tools import tool_calls
from finetune.data.wrong import WrongField

Message = dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """A message as it stands in its row."""

    value: Any
    field: str
    """What to call it in an error: `messages[2]`."""
    content_field: str
    """What to call its text: `messages[2].content`, or `prompt` where the column is the text."""
    learnt: bool = True
    """False where the row says that this message is context, whoever speaks."""


def message_from(turn: Turn, tools: tuple[dict[str, Any], ...]) -> Message:
    """Checks and normalises one message.

    Raises:
        WrongField: naming the field.
    """
    value, field = turn.value, turn.field
    if not isinstance(value, dict):
        raise WrongField(field, "a message is an object", f"it is {kind(value)}", '{"role": "user", "content": "..."}')
    if value.get("role") is None and "from" in value:
        raise WrongField(f"{field}.from", *unknown_field("from"))
    role = value.get("role")
    if role not in ROLES:
        raise WrongField(f"{field}.role", *unknown_role(role))
    for key, inner in value.items():
        if key not in MESSAGE_KEYS and inner not in (None, [], {}, ""):
            raise WrongField(f"{field}.{key}", *unknown_field(key))
    if role == "assistant":
        return _assistant(turn, tools)
    for key in ("tool_calls", "reasoning_content"):
        if value.get(key):
            what = f"a {role} message has {key}"
            raise WrongField(f"{field}.{key}", what, "only the assistant calls and reasons", '"role": "assistant"')
    message: Message = {"role": role, "content": _content(value.get("content"), turn)}
    if role == "user" and not message["content"].strip():
        what, why = "the user says nothing", "there is no question to answer"
        raise WrongField(turn.content_field, what, why, "remove the row, or write the question")
    if role == "tool" and value.get("tool_call_id"):
        message["tool_call_id"] = value["tool_call_id"]
    return message


def _assistant(turn: Turn, tools: tuple[dict[str, Any], ...]) -> Message:
    """Normalises the assistant's message: reasoning and calls have fields of their own."""
    value, field = turn.value, turn.field
    calls = tool_calls(value["tool_calls"], f"{field}.tool_calls", tools) if value.get("tool_calls") else []
    content = "" if calls and value.get("content") is None else _content(value.get("content"), turn)
    reasoning = value.get("reasoning_content") or ""
    if not isinstance(reasoning, str):
        what, why = "reasoning_content is not text", f"it is {kind(reasoning)}"
        raise WrongField(f"{field}.reasoning_content", what, why, '"reasoning_content": "..."')
    if not reasoning:
        reasoning, content = _split_reasoning(content, turn)
    if not content.strip() and not calls:
        what, why = "the assistant says nothing", "an empty answer teaches silence"
        raise WrongField(turn.content_field, what, why, "remove the row, or write the answer")
    message: Message = {"role": "assistant", "content": content}
    if reasoning.strip():
        message["reasoning_content"] = reasoning.strip()
    if calls:
        message["tool_calls"] = calls
    return message


def _content(value: Any, turn: Turn) -> str:
    """Gives content as text: a string, or the texts of its parts joined."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_part(part, f"{turn.content_field}[{i}]") for i, part in enumerate(value))
    if value is None:
        what = f"the {turn.value['role']} message has no content"
        raise WrongField(turn.content_field, what, "content is null or missing", '"content": "..."')
    key = turn.content_field.rpartition(".")[2].partition("[")[0]
    fix = f'"{key}": {json.dumps(json.dumps(value, ensure_ascii=False), ensure_ascii=False)}'
    raise WrongField(turn.content_field, "content is not text", f"it is {kind(value)}", fix)


def _part(part: Any, field: str) -> str:
    """Gives the text of one part of a content list."""
    if not isinstance(part, dict):
        what = "a part of content is an object"
        raise WrongField(field, what, f"it is {kind(part)}", '{"type": "text", "text": "..."}')
    word = part.get("type", "text")
    if word == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if word == "text":
        fix = 'rename "value" to "text"' if isinstance(part.get("value"), str) else '{"type": "text", "text": "..."}'
        raise WrongField(field, "the text part has no text", f"its text is {kind(part.get('text'))}", fix)
    told = json.dumps(word, ensure_ascii=False)
    if not isinstance(word, str):
        raise WrongField(field, f"content of type {told} is not text", "training is on text only", "remove the part")
    homes = {"reasoning": "reasoning_content", "thinking": "reasoning_content", "tool_call": "tool_calls"}
    fix = f'move it to the message\'s "{homes[word]}"' if word in homes else "remove the part, or the row"
    raise WrongField(field, f"content of type {told} is not text", "training is on text only", fix)


def _split_reasoning(content: str, turn: Turn) -> tuple[str, str]:
    """Takes reasoning out of content that begins with `<think>…</think>`."""
    text = content.lstrip()
    if not text.startswith("<think>"):
        return "", content
    reasoning, end, answer = text.removeprefix("<think>").partition("</think>")
    if not end:
        what, why = "<think> is never closed", "the answer would be part of the reasoning"
        raise WrongField(turn.content_field, what, why, "close it with </think>, or use reasoning_content")
    return reasoning, answer.lstrip("\n")
