"""The part of the page that says what the tuning did: tables of differences, and answers that changed sides."""

from __future__ import annotations

import re
from collections.abc import Mapping
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


class Said(str):
    """What was asked or answered: it is shown as it was, whatever paths stand in it."""


@dataclass(frozen=True)
class Row:
    """One comparison."""

    compared: str
    """Of what with what; empty for base and tuned model."""
    before: str
    after: str
    difference: str
    span: str
    chance: str
    cost: str
    """What another form loses of what the tuned model has."""
    mark: drawing.Mark
    verdict: str
    colour: str
    """The verdict, or nothing: a loss by quantising, however sure, is told by its size."""


@dataclass(frozen=True)
class Entry:
    """A task and its comparisons."""

    task: Task
    about: list[str]
    """Lines beneath its name."""
    rows: list[Row]
    majority: str
    """What always giving the commonest answer would score."""
    same_as: str
    """The earlier task whose answers these are; its rows are not told again."""
    alone: str
    """The scores, or that there are none, where nothing is compared."""


@dataclass(frozen=True)
class Table:
    """Tasks of one set in one unit."""

    title: str
    unit: str
    entries: list[Entry]
    ticks: list[drawing.Tick]
    """Empty where nothing is drawn."""


def tables(evaluation: Evaluation, repeated: Mapping[str, str]) -> list[Table]:
    """Lays the comparisons out, those of what was tuned for first.

    Args:
        evaluation: of the run.
        repeated: task -> the earlier one whose answers it counts again.
    """
    groups: dict[tuple[str, str], list[Task]] = {}
    for name in SETS:
        for task in evaluation.tasks:
            if task.set == name:
                groups.setdefault((name, "points" if task.is_share else task.unit), []).append(task)
    return [_table(SETS[name], unit, tasks, repeated) for (name, unit), tasks in groups.items()]


def _table(title: str, unit: str, tasks: list[Task], repeated: Mapping[str, str]) -> Table:
    pairs = {task.name: [] if task.name in repeated else _shown_pairs(task) for task in tasks}
    scale = drawing.forest_scale((pair.difference, pair.sees) for of_task in pairs.values() for pair in of_task)
    ticks = drawing.forest_ticks(scale, 100 if tasks[0].is_share else 1) if any(pairs.values()) else []
    entries = [
        Entry(
            task=task,
            about=[telling.many(task.items, "item")] if task.name in repeated else _about(task),
            rows=[_row(task, pair, scale) for pair in pairs[task.name]],
            majority=telling.percent(task.majority.share) if task.majority else "",
            same_as=repeated.get(task.name, ""),
            alone="" if _shown_pairs(task) else _alone(task),
        )
        for task in tasks
    ]
    return Table(title, unit, entries, ticks)


def _shown_pairs(task: Task) -> list[Pair]:
    return [pair for pair in task.pairs if pair.one in (BASE, TUNED)]


def _about(task: Task) -> list[str]:
    """Says how much was asked and what it can show, and of a harness's task how it was asked."""
    pair = task.main or next(iter(_shown_pairs(task)), None)
    sees = telling.change(pair.sees, task, sign=False) if pair and pair.sees is not None else ""
    shows = "" if not pair else f" · shows changes over {sees}" if sees else " · too few to show a change"
    told = [f"{telling.many(task.items, 'item')}{shows}"]
    if task.harness:
        few = " or ".join(str(number) for number in task.few_shot) or "0"
        examples = "1 example" if few == "1" else f"{few} examples" if few != "0" else "no example"
        told.append(f"{task.metric} of {task.harness}, {examples} before the question")
        version = next(iter(task.versions.values())) if len(task.versions) == 1 else ""
        of = [f"version {version}"] if version else [f"{len(task.versions)} tasks"] if task.versions else []
        of += [", ".join(task.hub.values())] if task.hub else []
        told += [" · ".join(of)] if of else []
    if task.set == "regression" and task.base_has_nothing:
        told.append("the base answers none of it right: it cannot show harm")
    return told


def _alone(task: Task) -> str:
    if not task.scores:
        return "no item of it had a figure"
    scores = (
        f"{side.removeprefix('gguf/')} {telling.figure(score.value, task)}" for side, score in task.scores.items()
    )
    return f"{', '.join(scores)}; not compared"


def _row(task: Task, pair: Pair, scale: drawing.Scale) -> Row:
    before, after = (
        telling.figure(task.scores[side].value, task) if side in task.scores else "" for side in (pair.one, pair.other)
    )
    of_form = pair.one == TUNED
    return Row(
        compared="" if pair is task.main else " → ".join(each.removeprefix("gguf/") for each in (pair.one, pair.other)),
        before=before,
        after=after,
        difference=telling.bare_change(pair.difference.value, task),
        span=telling.span(pair.difference, task),
        chance=telling.chance(pair.p, pair.p_holm),
        cost=telling.share_of_effect(pair, task) if of_form and pair.verdict == "worse" else "",
        mark=drawing.mark(pair.difference, pair.sees, scale, turned=task.better == "lower"),
        verdict=pair.verdict,
        colour="" if of_form else pair.verdict,
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
            text = same or "; ".join(f"{name}: {value}" for name, value in by_side.items())
            told.append((what, Said(readable(text)) if what == "system prompt" else text))
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
        if same_as := evidence.repeated.get(task.name):
            found.append({"task": task, "same_as": same_as})
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
        found.append({"task": task, "gained": flips.gained, "lost": flips.lost, "groups": groups, "same_as": ""})
    return found


def _shown(item: Item) -> dict[str, Any]:
    prompt = words(item.prompt)
    said = [item.sides[side].answer for side in (BASE, TUNED)]
    weighed = said == [None, None]
    before, after = (each or "" for each in said)
    return {
        "place": item.place or f"item {item.item}",
        "brief": Said(_brief(prompt, 100, end=True)),
        "weighed": weighed,
        "brief_before": Said(_brief(before, 64)),
        "brief_after": Said(_brief(after, 64)),
        "prompt": Said(cut(prompt)),
        "expected": Said(cut(words(item.expected)) if item.expected is not None else ""),
        "before": Said(cut(before)),
        "after": Said(cut(after)),
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
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]",
        lambda match: f"\\u{ord(match[0]):04x}",
        text.replace("\r\n", "\n"),
    )
