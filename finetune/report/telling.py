"""Every figure of the report as it is read best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.report.evaluation import Pair, Task
from finetune.statistics import Interval

MINUS = "\N{MINUS SIGN}"

MOST_DIGITS = 6
"""After the point of a share; what differs later from nothing or from all is told as it."""

SHA256_LETTERS = 64


def figure(value: float, task: Task) -> str:
    """Writes a score."""
    return percent(value) if task.is_share else plain(value)


def percent(share: float) -> str:
    """Writes a share with a decimal, or as many as tell it from nothing and from all."""
    exact = any(round(share - end, MOST_DIGITS) == 0 for end in (0, 1))
    digits = 1
    while not exact and float(f"{100 * share:.{digits}f}") in (0, 100):
        digits += 1
    return f"{100 * share:.{digits}f} %".replace("-", MINUS)


def cost(pair: Pair, task: Task) -> str:
    """Writes what a form of the tuned model loses of what that has.

    Args:
        pair: the tuned model and the form.
        task: of the pair.
    """
    share = share_of_effect(pair, task)
    told = change(abs(pair.difference.value), task, sign=False)
    return f"{told}, {share}" if share else told


def share_of_effect(pair: Pair, task: Task) -> str:
    """Writes a loss as a share of the tuning's effect; nothing where no effect is shown."""
    if task.main is None or task.main.verdict != "better" or not task.main.difference.value:
        return ""
    return f"{percent(abs(pair.difference.value / task.main.difference.value))} of the tuning's effect"


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


def named(value: Any) -> str:
    """Writes an input or output of a stage: hashes by their first letters, parts by name, all else whole."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_part(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_part(each) for each in value)
    return value[:20] if is_hash(value) else _part(value)


def _part(value: Any) -> str:
    if isinstance(value, Mapping | list | tuple):
        return f"({named(value)})"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return value[:8] if is_hash(value) else str(value)


def is_hash(value: Any) -> bool:
    """Tells a sha256 from other texts."""
    return isinstance(value, str) and len(value) == SHA256_LETTERS and not value.strip("0123456789abcdef")


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


def many(number: int, word: str) -> str:
    """Writes a number of things."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
