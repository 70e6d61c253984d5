"""Tells what is wrong inside the lists `evaluate.tasks` and `evaluate.fail_if`, item by item."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import ErrorDetails

from finetune.errors import Problem
from finetune.recipe.evaluation import HarnessTask, Task, nearest_score
from finetune.recipe.gate import EXAMPLE
from finetune.recipe.proposals import show

LISTS = ("tasks", "fail_if")

EXAMPLES = {
    "score": "exact",
    "file": "general.jsonl",
    "set": "regression",
    "name": "general-knowledge",
    "pattern": '"answer: (.*)"',
    "labels": "[yes, no]",
    "named": "last",
    "json_schema": "answer.schema.json",
    "columns": "{prompt: question, completion: answer}",
    "lm_eval": "gsm8k",
    "metric": "exact_match",
    "few_shot": "5",
}
"""Of each key of a task."""


def of_tasks(
    findings: list[ErrorDetails], place: Callable[[list[str]], str], rule: Callable[[str, Mapping[str, Any]], str]
) -> tuple[list[Problem], list[ErrorDetails]]:
    """Tells what is wrong inside the items of both lists; gives the other findings back.

    Args:
        findings: of pydantic.
        place: finds where a dotted path was written.
        rule: says in words which rule was broken.
    """
    inside = [f for f in findings if len(f["loc"]) > 2 and f["loc"][0] == "evaluate" and f["loc"][1] in LISTS]
    lists = {f["loc"][:2] for f in inside}  # which pydantic then finds too short, having lost the items
    inside += [f for f in findings if f["loc"] in lists]
    told = [f for f in inside if len(f["loc"]) > 2]
    first = {f["loc"][:3]: f for f in reversed(told)}  # one thing at a time is told of an item
    return [_inside(f, place, rule) for f in reversed(first.values())], [f for f in findings if f not in inside]


def _inside(
    finding: ErrorDetails, place: Callable[[list[str]], str], rule: Callable[[str, Mapping[str, Any]], str]
) -> Problem:
    _, of, number, *inner = finding["loc"]
    shown, kind, context = f"evaluate.{of}[{number}]", finding["type"], finding.get("ctx", {})
    names = [part for part in inner if isinstance(part, str) and part not in ("task", "word", "benchmark")]
    where = place(["evaluate", str(of), str(number), *names[:1]])
    told = show(finding["input"])
    told = told if len(told) <= 60 else f"{told[:59]}…"
    if of == "fail_if" or not names:
        why = finding["msg"] if kind in ("rule", "task", "needs") else rule(kind, context)
        fix = context.get("nearest") or (EXAMPLE if of == "fail_if" else "exact")
        if kind == "needs":
            fix = '{score: regex, pattern: "answer: (.*)"}' if "pattern" in why else "{score: exact}"
        return Problem(
            f"{shown} cannot be {told}", where, why, f"evaluate.{of}: [{show(fix) if of == 'fail_if' else fix}]"
        )
    name = names[0]
    if kind == "extra_forbidden":
        fields = (HarnessTask if "benchmark" in inner else Task).model_fields
        close = difflib.get_close_matches(name, fields, n=1, cutoff=0.4) or [next(iter(fields))]
        why = f"a task has {', '.join(fields)}"
        return Problem(f"{shown} has no key {name}", where, why, f"{close[0]}: {EXAMPLES[close[0]]}")
    if kind == "missing":
        return Problem(f"{shown} has no {name}", where, "it says what is measured", f"{name}: {EXAMPLES[name]}")
    why = finding["msg"] if kind == "pattern" else rule(kind, context)
    fix = nearest_score(str(finding["input"])) if name == "score" else EXAMPLES[name]
    return Problem(f"{shown}.{name} cannot be {told}", where, why, f"{name}: {fix}")
