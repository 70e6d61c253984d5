"""What is said in a row, text by text, each with the field that it stands in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from finetune.data import Row


@dataclass(frozen=True)
class Said:
    """One text of a row."""

    field: str
    role: str
    part: Literal["content", "reasoning", "call"]
    text: str
    learnt: bool


def said(row: Row) -> Iterator[Said]:
    """Lists the texts of a row in their order; the arguments of a call are its JSON."""
    if row.text:
        yield Said("text", "text", "content", row.text, learnt=True)
    for i, message in enumerate(row.messages):
        role, name = message["role"], field_of(row, i)
        learnt = role == "assistant" and i >= row.learn_from and i not in row.silent
        if reasoning := message.get("reasoning_content"):
            yield Said(f"{name}.reasoning_content", role, "reasoning", reasoning, learnt)
        if message["content"]:
            yield Said(f"{name}.content", role, "content", message["content"], learnt)
        for j, call in enumerate(message.get("tool_calls", ())):
            told = json.dumps(call["function"]["arguments"], ensure_ascii=False)
            yield Said(f"{name}.tool_calls[{j}].function.arguments", role, "call", told, learnt)


def field_of(row: Row, message: int) -> str:
    """Names a message as its row does: rows of prompt and completion are known by where learning begins."""
    if not row.learn_from:
        return f"messages[{message}]"
    if message < row.learn_from:
        return f"prompt[{message}]" if row.learn_from > 1 else "prompt"
    return f"completion[{message - row.learn_from}]" if len(row.messages) > row.learn_from + 1 else "completion"


def answers(row: Row) -> Iterator[Said]:
    """Lists what the assistant is to learn to say, without its reasoning and its calls."""
    return (each for each in said(row) if each.learnt and each.part == "content")
