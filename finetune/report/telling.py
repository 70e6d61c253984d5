"""The report in words: one sentence for the head, and every figure as it is read best."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from finetune.report.evaluation import TUNED, Evaluation, Pair, Task
from finetune.report.reading import Evidence
from finetune.statistics import Interval

Kind = Literal["better", "mixed", "worse", "none", "unknown"]

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Headline:
    """What a reader should know who reads no further."""

    kind: Kind
    sentence: str
    beneath: str = ""
    """How far that goes."""


def headline(evidence: Evidence) -> Headline:
    """Says in a sentence whether the tuning helped, whether it hurt, and what is not known."""
    if evidence.evaluation is None:
        return _of_training(evidence)
    evaluation = evidence.evaluation
    compared = [(task, task.main) for task in evaluation.tasks if task.main is not None]
    if evaluation.gate.failed:
        gates = f"{len(evaluation.gate.broken)} of {_many(len(evaluation.gate.rules), 'gate')}"
        return Headline("worse", f"Not to be shipped as it is: {gates} of the recipe failed.", _tasks(compared))
    if not compared:
        return Headline("unknown", "The evaluation does not compare the tuned model with its base.")
    verdicts = {pair.verdict for _, pair in compared}
    kind: Kind = "none"
    if "better" in verdicts:
        kind = "mixed" if "worse" in verdicts else "better"
    elif "worse" in verdicts:
        kind = "worse"
    return Headline(
        kind,
        _tasks(compared),
        " ".join(filter(None, [*_no_skill(evaluation), _reach(evaluation), *_forms(evaluation)])),
    )


def _tasks(compared: list[tuple[Task, Pair]]) -> str:
    """Counts verdicts: first of what was tuned for, then of what should have stayed."""
    told = []
    for name in ("domain", "regression"):
        of = [(task, pair.verdict) for task, pair in compared if task.set == name]
        better, worse = ([task.name for task, verdict in of if verdict == which] for which in ("better", "worse"))
        tasks = _many(len(of), f"{name} task")
        if not of:
            continue
        if not better and not worse:
            told.append(f"no evidence of {'a change' if name == 'domain' else 'harm'} on {tasks}")
        elif not worse:
            told.append(f"better on {len(better)} of {tasks}" if name == "domain" else f"no harm seen on {tasks}")
        else:
            also = f"better on {len(better)}, " if better else ""
            told.append(f"{also}worse on {len(worse)} of {tasks} ({', '.join(worse)})")
    sentence = "; ".join(told) + "."
    return sentence[0].upper() + sentence[1:]


def _no_skill(evaluation: Evaluation) -> list[str]:
    """Repeats what takes the shine off a better score: that one answer to everything would do as well."""
    return [f"{note}." for note in evaluation.notes if f"{TUNED} is not shown to beat always" in note]


def _reach(evaluation: Evaluation) -> str:
    """Says what nothing was found against, and how small a harm would have been seen."""
    watched = [(task.main, task) for task in evaluation.tasks if task.set == "regression" and task.main is not None]
    if not watched:
        return "Nothing watched for harm: no regression set was named under evaluate.tasks."
    unharmed = [(pair.sees, task) for pair, task in watched if pair.verdict != "worse"]
    if not unharmed:
        return ""
    seen = [(sees, task) for sees, task in unharmed if sees is not None]
    if not seen:
        return "The regression sets are too small to show any harm."
    sees, task = max(seen, key=lambda pair: pair[0] if pair[1].is_share else 0.0)
    return f"A harm of less than {change(sees, task, sign=False)} on {task.name} may have gone unseen."


def _forms(evaluation: Evaluation) -> list[str]:
    """Says of each other form of the tuned model where it is worse."""
    pairs = [(pair, task.name) for task in evaluation.tasks for pair in task.pairs if pair.one == TUNED]
    told = []
    for form in dict.fromkeys(pair.other for pair, _ in pairs):
        worse = [name for pair, name in pairs if pair.other == form and pair.verdict == "worse"]
        if worse:
            told.append(f"{form.removeprefix('gguf/')} is worse than the tuned model on {', '.join(worse)}.")
    return told


def _of_training(evidence: Evidence) -> Headline:
    held = [record["held_out_loss"] for record in evidence.records if "held_out_loss" in record]
    if evidence.last("train") is None:
        return Headline("unknown", "The training is not finished.")
    if len(held) < 2:
        return Headline("unknown", "Nothing was held out and nothing evaluated: what the tuning did is not known.")
    way = "fell" if held[-1] < held[0] else "did not fall"
    figures = f"from {held[0]:.3f} to {held[-1]:.3f} nats a token"
    beneath = "It was not evaluated: how sure that is, and whether anything else got worse, is not known."
    return Headline("unknown", f"Held-out loss {way}, {figures}.", beneath)


def figure(value: float, task: Task) -> str:
    """Writes a score."""
    return f"{100 * value:.1f} %" if task.is_share else plain(value)


def change(value: float, task: Task, *, sign: bool = True) -> str:
    """Writes a difference of scores with its unit."""
    unit = "points" if task.is_share else task.unit
    return f"{bare_change(value, task, sign=sign)} {unit}"


def bare_change(value: float, task: Task, *, sign: bool = True) -> str:
    """Writes a difference of scores."""
    told = f"{100 * value:.1f}" if task.is_share else plain(value)
    return signed(told) if sign else told


def span(interval: Interval, task: Task) -> str:
    """Writes where a difference lies."""
    return f"{bare_change(interval.low, task)} to {bare_change(interval.high, task)}"


def plain(value: float) -> str:
    """Writes a number with three decimals, or four where it is small."""
    return f"{value:.{3 if abs(value) >= 0.01 else 4}f}".replace("-", MINUS)


def signed(told: str) -> str:
    """Puts a sign before a number that was written without a plus."""
    told = told.replace("-", MINUS)
    if told.startswith(MINUS):
        return f"±{told[1:]}" if not told.strip(f"{MINUS}0.") else told
    return f"+{told}" if told.strip("0.") else f"±{told}"


def chance(p: float | None, among: float | None) -> str:
    """Writes a p, and what it is among those of other tasks where that makes a difference."""
    if p is None:
        return ""
    told = _chance(p)
    return told if among is None or _chance(among) == told else f"{told}, of all tasks {_chance(among)}"


def _chance(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def size(num_bytes: float) -> str:
    """Writes bytes."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:,.2f} {unit}"
    return f"{num_bytes:,.0f} B"


def duration(seconds: float) -> str:
    """Writes how long something took."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def when(stamp: str) -> str:
    """Writes a time of the manifest to the minute."""
    return f"{stamp[:10]} {stamp[11:16]} UTC" if len(stamp) >= 16 else stamp


def finite(values: list[float]) -> list[float]:
    """Leaves out what cannot be drawn."""
    return [value for value in values if math.isfinite(value)]


def _many(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
