"""What figures of items come to: a score of each side, the differences of each two, and what follows from them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from finetune.statistics import holm, paired_binary, paired_mean, sure_ratio, verdict, wilson

Figures = dict[str, Any]
"""`scores`, `pairs` and `flips` of a task, as evaluation.json has them but for the verdicts."""


def of_shares(right: Mapping[str, Sequence[bool]]) -> Figures:
    """Tells of each side how many items are right, the differences, and how many items changed.

    Args:
        right: side -> of each item, whether it is; the first two sides are those between which changes are counted.
    """
    flips, sides = None, list(right)
    if len(sides) > 1:
        both = list(zip(right[sides[0]], right[sides[1]], strict=True))
        flips = {"gained": both.count((False, True)), "lost": both.count((True, False))}
    return {
        "scores": {side: asdict(wilson(sum(each), len(each))) for side, each in right.items()},
        "pairs": [_pair(*two, paired_binary(right[two[0]], right[two[1]])) for two in _twos(right)],
        "flips": flips,
    }


def of_means(values: Mapping[str, Sequence[float]], weights: Sequence[float] | None = None) -> Figures:
    """Tells the mean of each side and the differences, drawn by items.

    Args:
        values: side -> of each item its figure, or what it sums up to where items are weighed.
        weights: of the items, such as their learnt tokens.
    """
    return {
        "scores": {side: asdict(sure_ratio(each, weights)) for side, each in values.items()},
        "pairs": [_pair(*two, paired_mean(values[two[0]], values[two[1]], weights)) for two in _twos(values)],
        "flips": None,
    }


def of_values(values: Mapping[str, Sequence[float]]) -> Figures:
    """Tells figures as shares where each item is right or wrong on all sides, else as means."""
    if all(value in (0, 1) for each in values.values() for value in each):
        return of_shares({side: [value == 1 for value in each] for side, each in values.items()})
    return of_means(values)


def _twos(sides: Iterable[str]) -> Iterable[tuple[str, str]]:
    return itertools.combinations(sides, 2)


def _pair(one: str, other: str, compared: Any) -> dict[str, Any]:
    return {"one": one, "other": other, "compared": compared}


def with_verdicts(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Says of each pair what follows; of several tests of the same two sides p is Holm's."""
    of_sides: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for task in tasks:
        for pair in task["pairs"]:
            if pair["compared"].p is not None:
                of_sides.setdefault((pair["one"], pair["other"]), []).append(pair)
    for tested in of_sides.values():
        for pair, p in zip(tested, holm([each["compared"].p for each in tested]), strict=True):
            pair["p_holm"] = p
    for task in tasks:
        for pair in task["pairs"]:
            compared = pair.pop("compared")
            pair["difference"] = asdict(compared.difference)
            pair["p"], pair["sees"] = compared.p, compared.sees
            pair["verdict"] = verdict(compared, task["better"], pair.get("p_holm"))
    return tasks
