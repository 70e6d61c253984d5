"""Whether a rule of the gate failed. A change counts where the whole 95 % interval says so, not the figure alone.

| rule | fails where |
|---|---|
| drops more than x | the interval of the difference ends below -x |
| rises more than x | it begins above x |
| does not fall | it does not end below 0: a fall is not shown |
| does not rise | it does not begin above 0: a rise is not shown |
| is below x | the interval of the score itself ends below x |
| is above x | it begins above x |

Each rule is held against the tuned model and against every GGUF; the difference is that from the base. Fewer than six
items show no change, whatever their interval.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.errors import RecipeError
from finetune.evaluate.jobs import Job
from finetune.recipe import Recipe, Rule, of_set, read_rule
from finetune.statistics import ENOUGH_UNITS


def failures(rules: Sequence[tuple[Rule, Sequence[str]]], tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lists the rules that failed, each with the figures that say so.

    Args:
        rules: with the names of the tasks that each speaks of.
        tasks: as they stand in evaluation.json.
    """
    by_name = {task["name"]: task for task in tasks}
    return [told for rule, names in rules for name in names for told in _of_task(rule, by_name[name])]


def blind(rules: Sequence[tuple[Rule, Sequence[str]]], tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lists the rules that would not see what they forbid: their set of items is too small for so small a change."""
    by_name = {task["name"]: task for task in tasks}
    found = []
    for rule, names in rules:
        if rule.verb not in ("drops more than", "rises more than"):
            continue
        for name in names:
            pair = _pairs(by_name[name])[:1]
            if pair and (pair[0]["sees"] is None or pair[0]["sees"] > rule.number):
                sees = "none at all" if pair[0]["sees"] is None else f"changes over {pair[0]['sees']:.3g}"
                found.append(f"{rule.text}: {by_name[name]['items']} items of {name} can show {sees}")
    return found


def check_rules(recipe: Recipe, jobs: Sequence[Job], with_base: bool) -> list[Rule]:
    """Reads the rules of the gate, and makes sure that each speaks of something that is measured.

    Raises:
        RecipeError: it names no task, or needs a base that is left out.
    """
    rules = [read_rule(text) for text in recipe.evaluate.fail_if]
    where = recipe.where("evaluate.fail_if")
    for rule in rules:
        if not of_rule(rule, jobs):
            subjects = [name for job in jobs for name in (job.name, f"{_set_word(job)} {job.kind}")]
            close = difflib.get_close_matches(rule.subject, subjects, n=1, cutoff=0.0)
            fix = f"evaluate.fail_if: [{rule.text.replace(rule.subject, close[0], 1)}]" if close else ""
            why = f"measured are {', '.join(job.name for job in jobs)}"
            raise RecipeError(f"no task is called {rule.subject}", where=where, why=why, fix=fix)
        if rule.compares and not with_base:
            why = "it compares with the base"
            raise RecipeError(f"the rule {rule.text!r} needs the base", where=where, why=why, fix="leave out --no-base")
    return rules


def of_rule(rule: Rule, jobs: Sequence[Job]) -> list[Job]:
    """Lists the tasks that a rule speaks of."""
    if named := [job for job in jobs if job.name == rule.subject]:
        return named
    parts = of_set(rule.subject)
    if parts is None:
        return []
    wanted, kind = parts
    return [job for job in jobs if job.kind == kind and wanted in (None, job.set)]


def _set_word(job: Job) -> str:
    return "held_out" if job.set == "domain" else job.set


def _of_task(rule: Rule, task: Mapping[str, Any]) -> Iterator[str]:
    if not task["scores"]:
        yield f"{rule.text}: {task['name']} has no figure"
    if not rule.compares:
        for side, score in task["scores"].items():
            wrong = score["high"] < rule.number if rule.verb == "is below" else score["low"] > rule.number
            if side != "base" and wrong:
                yield f"{rule.text}: {task['name']} of {side} is {_shown(score)}"
        return
    for pair in _pairs(task):
        if _fails(rule, pair["difference"], task["items"] >= ENOUGH_UNITS):
            yield f"{rule.text}: {task['name']} of {pair['other']} changed by {_shown(pair['difference'], '+')}"


def _pairs(task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [pair for pair in task["pairs"] if pair["one"] == "base"]


def _fails(rule: Rule, difference: Mapping[str, float], enough: bool) -> bool:
    match rule.verb:
        case "drops more than":
            return enough and difference["high"] < -rule.number
        case "rises more than":
            return enough and difference["low"] > rule.number
        case "does not fall":
            return not enough or difference["high"] >= 0
        case "does not rise":
            return not enough or difference["low"] <= 0
        case _:
            raise AssertionError(rule.verb)


def _shown(interval: Mapping[str, float], sign: str = "") -> str:
    value, low, high = (f"{interval[end]:{sign}.4f}" for end in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
