"""What is shown of an example in figures and, for programs, as JSON."""

from __future__ import annotations

from collections import Counter
from typing import Any

from finetune.lens.cells import Reader
from finetune.lens.choosing import Shown
from finetune.lens.stretches import stretches


def learnt_parts(shown: Shown, reader: Reader) -> dict[str, int]:
    """Counts the learnt tokens of each part: reasoning, tool calls, and `answer` for what is neither."""
    counts: Counter[str] = Counter()
    for each in stretches(shown.example, reader, shown.is_left_out):
        if each.fate == "learnt":
            counts[each.part if each.part in ("reasoning", "tool call") else "answer"] += each.end - each.start
    return {part: counts[part] for part in ("reasoning", "tool call", "answer") if counts[part]}


def told(shown: Shown, reader: Reader, max_length: int) -> dict[str, Any]:
    """Tells everything of an example: each cell with its ids, its text, its turn, its part and its fate."""
    ids = [*shown.example.ids, *shown.example.cut]
    return {
        "place": shown.example.place,
        "side": shown.side,
        "number": shown.number,
        "tokens": shown.num_tokens,
        "learnt": shown.num_learnt,
        "cut": shown.num_cut,
        "max_length": max_length,
        "learnt_parts": learnt_parts(shown, reader),
        "stretches": [
            {
                "turn": each.turn,
                "role": each.role,
                "part": each.part,
                "fate": each.fate,
                "cells": [{"ids": cell.ids, "text": cell.text} for cell in reader.cells(ids[each.start : each.end])],
            }
            for each in stretches(shown.example, reader, shown.is_left_out)
        ],
    }
