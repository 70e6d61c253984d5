"""The part of the page that says what the tuning did: tables of differences, and answers that changed sides."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from finetune.report import drawing, telling
from finetune.report.evaluation import BASE, TUNED, Evaluation, Flips, Item, Pair, Task, words
from finetune.report.reading import Evidence

SETS = {"domain": "What it was tuned for", "regression": "What should have stayed"}

FIRST_FLIPS = 3
"""Of a task and a direction, that are shown at once; the others on demand."""

MOST_LETTERS = 1_600
"""Of a prompt or an answer that are shown; of more the beginning and the end."""

MARKS = {"better": "▲", "worse": "▼", "no evidence": "○"}


@dataclass(frozen=True)
class Row:
    """One comparison."""

    task: Task
    pair: Pair
    first: bool
    """Whether it is the first of its task."""
    compared: str
    """Of what with what."""
    before: str
    after: str
    difference: str
    span: str
    chance: str
    sees: str
    mark: drawing.Mark


@dataclass(frozen=True)
class Table:
    """Comparisons of one set in one unit."""

    title: str
    unit: str
    rows: tuple[Row, ...]
    ticks: list[drawing.Tick]


def tables(evaluation: Evaluation) -> list[Table]:
    """Lays the comparisons out, those of what was tuned for first."""
    groups: dict[tuple[str, str], list[Task]] = {}
    for name in SETS:
        for task in evaluation.tasks:
            if task.set == name:
                groups.setdefault((name, "points" if task.is_share else task.unit), []).append(task)
    return [_table(SETS[name], unit, tasks) for (name, unit), tasks in groups.items()]


def _table(title: str, unit: str, tasks: list[Task]) -> Table:
    shown = [(task, pair) for task in tasks for pair in task.pairs if pair.one in (BASE, TUNED)]
    scale = drawing.forest_scale((pair.difference, pair.sees) for _, pair in shown)
    rows = tuple(_row(task, pair, scale) for task, pair in shown)
    return Table(title, unit, rows, drawing.forest_ticks(scale, 100 if tasks[0].is_share else 1))


def _row(task: Task, pair: Pair, scale: drawing.Scale) -> Row:
    before, after = (
        telling.figure(task.scores[side].value, task) if side in task.scores else "" for side in (pair.one, pair.other)
    )
    return Row(
        task=task,
        pair=pair,
        first=pair is task.pairs[0],
        compared=" → ".join(side.removeprefix("gguf/") for side in (pair.one, pair.other)),
        before=before,
        after=after,
        difference=telling.bare_change(pair.difference.value, task),
        span=telling.span(pair.difference, task),
        chance=telling.chance(pair.p, pair.p_holm),
        sees=f"over {telling.change(pair.sees, task, sign=False)}" if pair.sees is not None else "none",
        mark=drawing.mark(pair.difference, pair.sees, scale, turned=task.better == "lower"),
    )


def asked_alike(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Tells how the sides were asked, and what differs between them if anything does."""
    sides = evaluation.sides
    asked = [
        ("template", {name: side.template[:12] for name, side in sides.items()}),
        ("tokenizer", {name: side.tokenizer[:12] for name, side in sides.items()}),
        ("thinking", {name: "on" if side.thinking else "off" for name, side in sides.items()}),
        ("system prompt", {name: side.system or "none" for name, side in sides.items()}),
        ("sampling", {name: _sampling(side.sampling) for name, side in sides.items()}),
    ]
    told = []
    for what, by_side in asked:
        values = set(by_side.values())
        same = values.pop() if len(values) == 1 else ""
        if same or (len(by_side) > 1 and any(by_side.values())):
            told.append((what, same or "; ".join(f"{name}: {value}" for name, value in by_side.items())))
    return told


def _sampling(sampling: dict[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in sampling.items())


def flipped(evidence: Evidence) -> list[dict[str, Any]]:
    """Gathers, task by task, the answers that changed sides; what was lost comes first."""
    assert evidence.evaluation is not None
    found = []
    for task in evidence.evaluation.tasks:
        flips = evidence.flips.get(task.name, Flips())
        if task.flips is None or not flips.gained + flips.lost:
            continue
        groups = [
            {
                "way": way,
                "first": [_shown(item) for item in items[:FIRST_FLIPS]],
                "later": [_shown(item) for item in items[FIRST_FLIPS:]],
                "more": count - len(items),
            }
            for way, count, items in (
                ("lost", flips.lost, flips.shown_lost),
                ("gained", flips.gained, flips.shown_gained),
            )
            if count
        ]
        found.append({"task": task, "gained": flips.gained, "lost": flips.lost, "groups": groups})
    return found


def _shown(item: Item) -> dict[str, Any]:
    prompt = words(item.prompt)
    before, after = (item.sides[side].answer or "" for side in (BASE, TUNED))
    return {
        "place": item.place or f"item {item.item}",
        "brief": _brief(prompt, 100, end=True),
        "brief_before": _brief(before, 64),
        "brief_after": _brief(after, 64),
        "prompt": cut(prompt),
        "expected": cut(words(item.expected)) if item.expected is not None else "",
        "before": cut(before),
        "after": cut(after),
    }


def _brief(text: str, letters: int, *, end: bool = False) -> str:
    """Gives the first words of a text, or the last ones, which of a prompt mostly hold the question."""
    line = " ".join(readable(text).split())
    if len(line) <= letters:
        return line
    return (
        f"… {line[-letters:].partition(' ')[2]}" if end else f"{line[:letters].rpartition(' ')[0] or line[:letters]} …"
    )


def cut(text: str) -> str:
    """Gives a text as it is shown: the middle of a long one left out."""
    text = readable(text)
    if len(text) <= MOST_LETTERS:
        return text
    half = MOST_LETTERS // 2
    return f"{text[:half]}\n\n[… {len(text) - 2 * half:,} letters left out …]\n\n{text[-half:]}"


def readable(text: str) -> str:
    """Spells out what a browser would hide or obey: control characters, and turns of direction."""
    return re.sub(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]",
        lambda match: f"\\u{ord(match[0]):04x}",
        text.replace("\r\n", "\n"),
    )
