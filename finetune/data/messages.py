"""What a row must be: messages in an order that a chat can have, or a text that is learnt as it stands.

Everything is normalised here once (tool arguments are objects, content is text, reasoning has its own field),
so that rendering has nothing left to decide.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from finetune.data.files import LeftOut
from finetune.data.order import check_order
from finetune.data.shapes import Columns, Talk, talks
from finetune.data.shapes.columns import as_text, found_at
from finetune.data.tools import offered_tools
from finetune.data.turns import Message, Turn, message_from
from finetune.data.wrong import WrongField
from finetune.errors import Problem

_NOT_WORDS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Row:
    """One conversation, or one text, normalised."""

    place: str
    """`file:line` of where it stands."""
    messages: tuple[Message, ...]
    """Empty where the row is a text."""
    tools: tuple[dict[str, Any], ...] = ()
    learn_from: int = 0
    """Index of the first message that may be learnt; what comes before is prompt."""
    unread: tuple[str, ...] = ()
    """Columns of the row that mean nothing here."""
    text: str = ""
    """A text that is learnt whole, for continued pre-training; empty for a conversation."""
    shape: str = "messages"
    """What the row's shape is called."""
    silent: frozenset[int] = frozenset()
    """Indices of assistants' messages that the row itself says are not to be learnt."""
    unanswered: int = 0
    """Messages that were cut off its end, since nobody answers them."""
    group: str = ""
    """What stands in the column `data.group`; of rows that `each` makes of one record, without it, the record."""
    part: int = 0
    """Which row of its record it is, from 1, where `each` makes several; else 0."""

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
        told = json.dumps([said, self.tools, *([self.text] if self.text else [])], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(told.encode()).hexdigest()

    @cached_property
    def likeness(self) -> int:
        """The same 63 bits for rows whose words are the same, whatever their case, spaces and punctuation."""
        said = [f"{m['role']}\0{m['content']}\0{m.get('tool_calls', '')}" for m in self.messages] or [self.text]
        words = "\0".join(_NOT_WORDS.sub("", text.casefold()) or text for text in said)
        return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest()) >> 1

    @property
    def reasons(self) -> bool:
        """Whether reasoning may be learnt from it."""
        return any("reasoning_content" in message for message in self.messages[self.learn_from :])


def rows_from(
    record: dict[str, Any],
    place: str,
    columns: Columns | None = None,
    group: str | None = None,
    may_lack_group: bool = False,
) -> Iterator[Row | Problem | LeftOut]:
    """Makes rows of a record, or says what is wrong with it first.

    Args:
        record: as it stands in its file.
        place: `file:line` of it.
        columns: `data.columns` of the recipe.
        group: the column `data.group` of the recipe.
        may_lack_group: whether a record without it belongs to no group; else it is an error.
    """
    each = (columns or {}).get("each", "")
    number = 0
    try:
        told = _group(record, group, may_lack_group) or (place if each else "")
        for number, talk in enumerate(talks(record, columns), 1):
            if isinstance(talk, LeftOut):
                yield talk
            else:
                row = _row(record, talk, part_of(place, str(each), number) if each else place, told)
                yield replace(row, part=number) if each else row
    except WrongField as wrong:
        at = part_of(place, str(each), number + 1) if each and number else place
        yield Problem(wrong.what, f"{at}  {wrong.field}", wrong.why, wrong.fix)


def part_of(place: str, each: str, number: int) -> str:
    """Names a row of several that come of one record."""
    return f"{place} {each}[{number - 1}]"


def row_from(record: dict[str, Any], place: str) -> Row | Problem | LeftOut:
    """Makes the one row of a record whose shape is recognised, or says what is wrong with it first."""
    return next(rows_from(record, place))


def _row(record: dict[str, Any], talk: Talk, place: str, group: str) -> Row:
    """Checks and normalises one conversation or text."""
    unread = tuple(key for key in record if key not in talk.read and record[key] not in (None, "", [], {}))
    if talk.text is not None:
        if not talk.text.strip():
            raise WrongField("text", "the text is empty", "there is nothing to learn", "remove the row")
        return Row(place, (), unread=unread, text=talk.text, shape=talk.shape, group=group)
    tools = offered_tools(talk.tools, talk.tools_field)
    turns, unanswered = _answered(talk)
    messages = tuple(message_from(turn, tools) for turn in turns)
    check_order(messages, [turn.field for turn in turns])
    said = [i for i, m in enumerate(messages) if i >= talk.learn_from and m["role"] == "assistant"]
    silent = frozenset(i for i in said if not turns[i].learnt)
    if len(silent) == len(said):
        what, why = "nothing of the row is learnt", "each assistant's message has the weight 0, or is prompt"
        raise WrongField(turns[-1].field, what, why, "remove the row, or give the answer the weight 1")
    return Row(place, messages, tools, talk.learn_from, unread, "", talk.shape, silent, unanswered, group)


def _answered(talk: Talk) -> tuple[tuple[Turn, ...], int]:
    """Leaves out what follows the last answer; a chat that nobody answers is left as it is, to be told."""
    roles = [turn.value.get("role") if isinstance(turn.value, dict) else None for turn in talk.turns]
    end = len(roles) - 1 - roles[::-1].index("assistant") + 1 if "assistant" in roles else 0
    whole = end <= talk.learn_from or any(role not in ("user", "tool") for role in roles[end:])
    return (talk.turns, 0) if whole else (talk.turns[:end], len(roles) - end)


def _group(record: dict[str, Any], group: str | None, may_lack: bool) -> str:
    """Reads the column whose equal values stay together.

    Raises:
        WrongField: the record has no such column.
    """
    if group is None or (may_lack and group not in record):
        return ""
    return as_text(found_at(record, group)).strip()  # 7 in one file is "7" in another
