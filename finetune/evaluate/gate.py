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
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from finetune.errors import RecipeError
from finetune.evaluate.jobs import Job
from finetune.evaluate.tasks import Subject
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


def notes(rules: Sequence[tuple[Rule, Sequence[str]]], tasks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yields what one should know of rules: that a set is too small to see what they forbid, or that they are reversed.

    Args:
        rules: with the names of the tasks that each speaks of.
        tasks: as they stand in evaluation.json.
    """
    by_name = {task["name"]: task for task in tasks}
    for rule, names in rules:
        for name in names:
            task = by_name[name]
            if rule.verb == _WORSE[task["better"] == "lower"]:
                yield f"the rule {rule.text!r} fails unless {name} becomes worse"
            pair = _pairs(task)[:1] if rule.verb in ("drops more than", "rises more than") else []
            if pair and (pair[0]["sees"] is None or pair[0]["sees"] > rule.number):
                sees = "none at all" if pair[0]["sees"] is None else f"changes over {pair[0]['sees']:.3g}"
                yield f"{rule.text}: {task['items']} items of {name} can show {sees}"


def check_rules(recipe: Recipe, asked: Sequence[Subject], known: Sequence[Subject] | None, base: bool) -> list[Rule]:
    """Reads the rules of the gate; gives those that speak of something that is asked.

    Args:
        recipe: with the rules.
        asked: the tasks of this evaluation.
        known: tasks of the recipe, where only some of them are asked; a rule about another one is left out.
        base: whether the base is asked.

    Raises:
        RecipeError: a rule names no task, or needs a base that is left out.
    """
    rules = [read_rule(text) for text in recipe.evaluate.fail_if]
    where, found = recipe.where("evaluate.fail_if"), []
    for rule in rules:
        if not of_rule(rule, asked):
            if known is not None and (of_rule(rule, known) or (not known and of_set(rule.subject))):
                continue
            raise _unknown(rule, asked, where)
        if rule.compares and not base:
            why = "it compares with the base"
            raise RecipeError(f"the rule {rule.text!r} needs the base", where=where, why=why, fix="leave out --no-base")
        found.append(rule)
    return found


S = TypeVar("S", Subject, Job)


def of_rule(rule: Rule, asked: Sequence[S]) -> list[S]:
    """Lists the tasks that a rule speaks of."""
    if named := [each for each in asked if each.name == rule.subject]:
        return named
    parts = of_set(rule.subject)
    if parts is None:
        return []
    wanted, kind = parts
    return [each for each in asked if each.kind == kind and wanted in (None, each.set)]


_WORSE = {True: "does not rise", False: "does not fall"}
"""Of what is better the lower it is, and of the others."""


def _unknown(rule: Rule, asked: Sequence[Subject], where: str) -> RecipeError:
    subjects = {name: each.kind for each in asked for name in (each.name, f"{_set_word(each)} {each.kind}")}
    close = difflib.get_close_matches(rule.subject, subjects, n=1, cutoff=0.0)
    verb = rule.text.removeprefix(rule.subject).strip()
    if close and verb == _WORSE[subjects[close[0]] == "loss"]:
        verb = "drops more than 0.02"
    text = json.dumps([f"{close[0]} {verb}"]) if close else "[]"
    why = f"measured are {', '.join(each.name for each in asked)}"
    fix = f"--set {shlex.quote(f'evaluate.fail_if={text}')}"
    return RecipeError(f"no task is called {rule.subject}", where=where, why=why, fix=fix)


def _set_word(subject: Subject) -> str:
    return "held_out" if subject.set == "domain" else subject.set


def _of_task(rule: Rule, task: Mapping[str, Any]) -> Iterator[str]:
    if not task["scores"]:
        yield f"{rule.text}: {task['name']} has no figure"
    if not rule.compares:
        for side, score in task["scores"].items():
            wrong = score["high"] < rule.number if rule.verb == "is below" else score["low"] > rule.number
            if side != "base" and wrong and task["items"] >= ENOUGH_UNITS:
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
