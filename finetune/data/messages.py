"""What a row must be: messages in an order that a chat can have, or a prompt and its completion.

Everything is normalised here once (tool arguments are objects, content is text, reasoning has its own field),
so that rendering has nothing left to decide.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from finetune.data.dialects import mapping_for
from finetune.data.order import check_order
from finetune.data.strict_json import kind
from finetune.data.tools import offered_tools
from finetune.data.turns import Message, Turn, message_from
from finetune.data.wrong import WrongField
from finetune.errors import Problem

ROW_KEYS = ("messages", "tools", "prompt", "completion")


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

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the conversation as a model sees it: the same wherever and in whatever form it stands."""
        said = [
            [
                m["role"],
                m["content"].strip(),
                m.get("reasoning_content"),
                [c["function"] for c in m.get("tool_calls", ())],
            ]
            for m in self.messages
        ]
        told = json.dumps([said, self.tools], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(told.encode()).hexdigest()


def row_from(value: dict[str, Any], place: str, file: str) -> Row | Problem:
    """Makes a Row of a parsed line, or says what is wrong with it first.

    Args:
        value: the line.
        place: `file:line` of it.
        file: the file's name, for the command that would convert it.
    """
    try:
        tools = offered_tools(value.get("tools"))
        turns, learn_from = _conversation(value, file)
        messages = tuple(message_from(turn, tools) for turn in turns)
        check_order(messages, [turn.field for turn in turns])
    except WrongField as wrong:
        return Problem(wrong.what, f"{place}  {wrong.field}", wrong.why, wrong.fix)
    return Row(place, messages, tools, learn_from, tuple(key for key in value if key not in ROW_KEYS))


def _conversation(value: dict[str, Any], file: str) -> tuple[list[Turn], int]:
    """Finds the turns of a row, and the first of them that may be learnt."""
    pair = [key for key in ("prompt", "completion") if key in value]
    if "messages" in value:
        if pair:
            what = f"the row has messages and a {pair[0]}"
            raise WrongField("messages", what, "one of them would be ignored", "keep one")
        return _turns(value["messages"], "messages"), 0
    if len(pair) == 2:
        prompt = _turns(value["prompt"], "prompt", "user")
        return prompt + _turns(value["completion"], "completion", "assistant"), len(prompt)
    why, fix = mapping_for(value, file)
    if pair and not fix.startswith("jq"):
        missing = "completion" if pair == ["prompt"] else "prompt"
        why = "a prompt and its completion come together"
        raise WrongField(missing, f"the row has no {missing}", why, f'"{missing}": "..."')
    what = "the row has neither messages nor prompt and completion"
    raise WrongField(", ".join(list(value)[:6]) or "(empty)", what, why, fix)


def _turns(value: Any, field: str, speaker: str = "") -> list[Turn]:
    """Lists the turns of a column: a list of messages or, where the speaker is known, a text."""
    if speaker and isinstance(value, str):
        return [Turn({"role": speaker, "content": value}, field, field)]
    if not isinstance(value, list) or not value:
        what = f"{field} is {'an empty list' if value == [] else kind(value)}"
        why = f"it must be {'text, or ' if speaker else ''}a list of messages"
        both = f'"{field}": [{{"role": "user", "content": "..."}}, {{"role": "assistant", "content": "..."}}]'
        raise WrongField(field, what, why, f'"{field}": "..."' if speaker else both)
    return [Turn(message, f"{field}[{i}]", f"{field}[{i}].content") for i, message in enumerate(value)]
