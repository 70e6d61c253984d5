"""What is shown of an example in figures and, for programs, as JSON."""

from __future__ import annotations

from collections import Counter
from typing import Any

from finetune.lens.cells import Reader
from finetune.lens.choosing import Shown
from finetune.lens.steps import Step
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


def told_step(step: Step, reader: Reader, max_length: int) -> dict[str, Any]:
    """Tells an optimizer step: which examples lie end to end in each of its packs, or all of them side by side."""
    told_packs = [[told(shown, reader, max_length) for shown in pack] for pack in step.packs]
    laid = {"packs": told_packs} if step.packed else {"examples": told_packs[0]}
    return {"step": step.number, "of": step.of, "epoch": step.epoch} | laid
