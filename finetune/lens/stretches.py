"""Which turn and which part of it a token belongs to, and whether it is learnt, context, or was cut off.

Only control tokens tell, which the template alone can write: a customer's `<think>` is text and begins nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from finetune.data import Example
from finetune.data.rendering import TURN_END, TURN_START
from finetune.lens.cells import Reader

Fate = Literal["context", "learnt", "cut"]
Part = Literal["frame", "text", "reasoning", "tool call", "tool result"]

FATES: tuple[Fate, ...] = get_args(Fate)
PARTS: tuple[Part, ...] = get_args(Part)

SPANS: dict[str, tuple[str, Part, str]] = {
    "<think>": ("</think>", "reasoning", "assistant"),
    "<tool_call>": ("</tool_call>", "tool call", "assistant"),
    "<tool_response>": ("</tool_response>", "tool result", "user"),
}
"""What begins a part -> what ends it, the part, and the role that may hold it: a system prompt shows how calls look."""


@dataclass(frozen=True)
class Stretch:
    """Neighbouring tokens of one turn and one part, with one fate."""

    start: int
    end: int
    turn: int
    """Which turn of the example, from 0."""
    role: str
    """Of the turn: system, user, assistant or tool (results, which Qwen's template gives as the user)."""
    part: Part
    fate: Fate


def stretches(example: Example, reader: Reader, left_out: bool = False) -> list[Stretch]:
    """Divides an example, and behind it what was cut off its end.

    Args:
        example: from the very Dataset that is trained on.
        reader: of its base's tokenizer.
        left_out: whether the whole of it was too long.
    """
    ids = [*example.ids, *example.cut]
    fates: list[Fate] = ["learnt" if each else "context" for each in example.learnt]
    fates += ["cut"] * len(example.cut)
    if left_out:
        fates = ["cut"] * len(ids)
    roles, places = _places(ids, reader)
    made, start = [], 0
    for ((turn, part), fate), run in itertools.groupby(zip(places, fates, strict=True)):
        end = start + sum(1 for _ in run)
        made.append(Stretch(start, end, turn, roles[turn], part, fate))
        start = end
    return made


def _places(ids: Sequence[int], reader: Reader) -> tuple[list[str], list[tuple[int, Part]]]:
    """Reads the turns: the role of each, and for each token its turn and part."""
    roles: list[str] = []
    places: list[tuple[int, Part]] = []
    part: Part = "text"
    naming, closing = False, ""
    for i in ids:
        name = reader.control.get(i)
        if name == TURN_START or not roles:
            naming = name == TURN_START
            roles.append("")
            part = "frame" if naming else "text"
        elif name == TURN_END:
            part = "frame"
        elif name in SPANS and roles[-1] == SPANS[name][2]:
            closing, part, _ = SPANS[name]
        places.append((len(roles) - 1, part))
        if name is not None and name == closing:
            closing, part = "", "text"
        elif naming and name is None:
            roles[-1] += reader.bytes_of(i).decode(errors="replace")
            if "\n" in roles[-1]:
                roles[-1], naming, part = roles[-1].strip(), False, "text"
    holding = {turn for turn, part in places if part == "tool result"}
    return ["tool" if turn in holding else role for turn, role in enumerate(roles)], places
