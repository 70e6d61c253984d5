"""Recognises the shape of a record, or follows the columns that the recipe names; guesses nothing in silence."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from finetune.data.files import LeftOut
from finetune.data.shapes.chats import (
    UNWANTED,
    is_transcript,
    lines_of,
    messages,
    preference,
    sharegpt,
    turns_of,
    unwanted,
)
from finetune.data.shapes.columns import Column, as_text, found_at, names_of, written
from finetune.data.shapes.proposing import CONTEXT, PAIRS, answers, no_shape, of_name
from finetune.data.shapes.talk import Talk
from finetune.data.strict_json import kind
from finetune.data.turns import Turn
from finetune.data.wrong import WrongField
from finetune.recipe import Role

Columns = Mapping[Role, Column]
Record = dict[str, Any]


def talks(record: Record, columns: Columns | None) -> Iterator[Talk | LeftOut]:
    """Yields what a record says: one conversation or, where the recipe goes into a list of it, several.

    Args:
        record: as it stands in its file.
        columns: `data.columns` of the recipe; without them the shape is recognised.

    Raises:
        WrongField: a column is not there, or the shape is not known.
    """
    if not columns:
        yield recognised(record)
        return
    if "each" not in columns:
        yield mapped(record, columns)
        return
    inner = found_at(record, as_name(columns["each"]))
    if not isinstance(inner, list):
        where, fix = str(columns["each"]), "leave out `each`, or name a column that holds a list"
        raise WrongField(where, f"{where} is not a list", f"it is {kind(inner)}", fix)
    for one in inner:
        yield mapped(record | one if isinstance(one, dict) else record | {as_name(columns["each"]): one}, columns)


def as_name(column: Column) -> str:
    """Gives the one name of a column that can have only one."""
    return column if isinstance(column, str) else column[0]


def recognised(record: Record) -> Talk | LeftOut:
    """Recognises the shape by the names of the columns.

    Raises:
        WrongField: it is none that is known; the fix is the `data.columns` that it probably needs.
    """
    for holds, read in SHAPES:
        if holds(record):
            return read(record)
    if pair := _pair(record):
        return _asked_and_answered(record, *pair)
    if isinstance(text := record.get("text"), str) and not answers(record):
        return Talk("text", text=text, read=frozenset({"text"}))
    raise no_shape(record)


def mapped(record: Record, columns: Columns) -> Talk:
    """Reads the columns that the recipe names.

    Raises:
        WrongField: one of them is not there.
    """
    read = frozenset(name for column in columns.values() for name in names_of(column))
    if "text" in columns:
        return Talk("text by data.columns", text=written(record, columns["text"]), read=read)
    tools = found_at(record, as_name(columns["tools"])) if "tools" in columns else record.get("tools")
    field = as_name(columns["tools"]) if "tools" in columns else "tools"
    system = written(record, columns["system"]) if "system" in columns else ""
    before = (Turn({"role": "system", "content": system}, "system", "system"),) if system.strip() else ()
    if "messages" in columns:
        name = as_name(columns["messages"])
        told = found_at(record, name)
        spoken = lines_of(told, name) if is_transcript(told) else turns_of(told, name)
        turns = (*before, *spoken)
        return Talk("messages by data.columns", turns, tools=tools, tools_field=field, read=read)
    asked = Turn({"role": "user", "content": written(record, columns["prompt"])}, "prompt", "prompt")
    answer: Record = {"role": "assistant", "content": written(record, columns["completion"])}
    if "reasoning" in columns:
        answer["reasoning_content"] = written(record, columns["reasoning"])
    turns = (*before, asked, Turn(answer, "completion", "completion"))
    return Talk("columns of the recipe", turns, len(turns) - 1, tools, field, read=read)


def _prompt_and_completion(record: Record) -> Talk | LeftOut:
    if unwanted(record.get("label")):
        return LeftOut(UNWANTED)
    prompt, read = turns_of(record["prompt"], "prompt", "user"), frozenset({"prompt", "completion", "tools"})
    turns = prompt + turns_of(record["completion"], "completion", "assistant")
    return Talk("prompt and completion", turns, len(prompt), record.get("tools"), read=read)


def _alpaca(record: Record) -> Talk:
    """Stanford Alpaca's form: an instruction, perhaps its input, the output; LLaMA-Factory adds system and history."""
    asked = "\n\n".join(text for key in ("instruction", "input") if (text := as_text(record.get(key))).strip())
    turns = []
    if as_text(record.get("system")).strip():
        turns.append(Turn({"role": "system", "content": record["system"]}, "system", "system"))
    history = record.get("history") or []
    if not isinstance(history, list):
        why, fix = f"it is {kind(history)}", '"history": [["...", "..."]]'
        raise WrongField("history", "the history is not a list of pairs", why, fix)
    for i, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2:
            why, fix = "each part of it is a question and its answer", '"history": [["...", "..."]]'
            raise WrongField(f"history[{i}]", "the history is not a list of pairs", why, fix)
        for role, said in zip(("user", "assistant"), pair, strict=True):
            turns.append(Turn({"role": role, "content": said}, f"history[{i}]", f"history[{i}]"))
    turns.append(Turn({"role": "user", "content": asked}, "instruction", "instruction"))
    answer = Turn({"role": "assistant", "content": _scalar(record["output"])}, "output", "output")
    read = frozenset({"instruction", "input", "output", "system", "history"})
    return Talk("Alpaca", (*turns, answer), len(turns), read=read)


def _pair(record: Record) -> tuple[str, str] | None:
    """Finds the two columns that ask and answer, if no third looks as if it belonged to the question."""
    for asked, answered in PAIRS:
        names = of_name(record, asked), of_name(record, answered)
        if names[0] and names[1]:
            rest = [key for key in record if key not in names]
            certain = not any(of_name({key: 0}, word) for key in rest for word in CONTEXT)
            plain = all(isinstance(record[name], str | int | float) for name in names)
            return (names[0], names[1]) if certain and plain else None
    return None


def _asked_and_answered(record: Record, asked: str, answered: str) -> Talk:
    question = Turn({"role": "user", "content": _scalar(record[asked])}, asked, asked)
    answer = Turn({"role": "assistant", "content": _scalar(record[answered])}, answered, answered)
    shape = f"{asked} and {answered}"
    return Talk(shape, (question, answer), 1, record.get("tools"), read=frozenset({asked, answered, "tools"}))


def _scalar(value: Any) -> Any:
    """Writes a number or a truth value as text; tables and answers hold them."""
    return json.dumps(value) if isinstance(value, bool | int | float) else value


SHAPES: tuple[tuple[Callable[[Record], bool], Callable[[Record], Talk | LeftOut]], ...] = (
    (lambda r: "messages" in r, messages),
    (lambda r: "chosen_messages" in r or ("chosen" in r and "rejected" in r), preference),
    (lambda r: "conversations" in r, sharegpt),
    (lambda r: "prompt" in r and "completion" in r, _prompt_and_completion),
    (lambda r: "instruction" in r and "output" in r, _alpaca),
)
"""How a shape is known, and how it is read; the first that fits is taken."""
