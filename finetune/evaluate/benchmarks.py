"""Tasks of lm-evaluation-harness: its documents, examples, filters and metrics; our prompts, models and statistics.

The harness writes messages, and each is rendered as the run is served: same template, system prompt and thinking mode.
Its own model classes are not used, so that base, tuned model and GGUF are asked by the code that asks everything else.
Source: lm_eval 0.4.13, api/task.py and tasks/manager.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.data import Example, Renderer
from finetune.errors import RecipeError
from finetune.evaluate.harness import WHERE, load_tasks, one_line, told_wrongs, wrongs
from finetune.evaluate.requests import Contexts, Item, Prompt, items_of
from finetune.evaluate.scores import spoken
from finetune.recipe import HarnessTask
from finetune.statistics import Better

MEANS = ("mean", "nanmean")
"""What the harness calls the mean of items."""


@dataclass(frozen=True)
class _Leaf:
    """A task of the harness that has no others below it, with its items."""

    task: Any
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Benchmark:
    """A task or a group of tasks, with what is asked."""

    metric: str
    filter: str
    better: Better
    items: tuple[Item, ...]
    told: Mapping[str, Any]
    notes: tuple[str, ...]
    thinking: bool
    _leaves: tuple[_Leaf, ...]

    @property
    def prompts(self) -> list[Prompt]:
        """What is answered, in its order."""
        return [each for item in self.items for each in item.requests if isinstance(each, Prompt)]

    @property
    def weighed(self) -> list[Example]:
        """What is scored by its likelihood, in its order."""
        return [each for item in self.items for each in item.requests if isinstance(each, Example)]

    def values(self, answers: Sequence[str], costs: Sequence[tuple[float, bool]]) -> list[float | None]:
        """Lets the harness score what one side did.

        Args:
            answers: to the prompts, in their order, with their reasoning.
            costs: of what is weighed, in its order: nats, and whether all its tokens are the likeliest.

        Returns:
            The figure of each item, in their order; None where the harness gives none, or no number.
        """
        said, weighed = iter(answers), iter(costs)
        found: list[float | None] = []
        for leaf in self._leaves:
            given = [
                _cut(spoken(next(said), self.thinking) or "", each.until)
                if isinstance(each, Prompt)
                else _likelihood(*next(weighed))
                for item in leaf.items
                for each in item.requests
            ]
            try:
                scored = _scored(leaf.task, given)[self.filter]
            except wrongs():  # in a filter, which sees all answers at once
                scored = [{} for _ in leaf.items]
            found += [_number(each.get(self.metric)) for each in scored]
        return found


def read_benchmark(wish: HarnessTask, renderer: Renderer, thinking: bool, limit: int | None, most: int) -> Benchmark:
    """Reads a task and everything that it asks, before any model is loaded.

    Args:
        wish: of the recipe.
        renderer: as the run renders.
        thinking: as the run asks.
        limit: the most items of each of its tasks; which they are is as good as chance, and the same every time.
        most: tokens of an answer, where the task asks for fewer.

    Raises:
        DataError: it has no items.
        OutsideError: the harness, a package of the task or its rows are not there.
        RecipeError: there is no such task or metric, or it cannot be asked as the run is served.
    """
    tasks, harness = load_tasks(wish)
    contexts = Contexts(renderer, thinking, wish.lm_eval)
    leaves = []
    for task in tasks:
        if wish.few_shot is not None:
            task.set_config("num_fewshot", wish.few_shot)
        leaves.append(_Leaf(task, tuple(items_of(task, contexts, limit, most))))
    items = tuple(item for leaf in leaves for item in leaf.items)
    metric, of_filter, better = _metric(wish, tasks)
    told = {
        "harness": harness,
        "metric": one_line(metric if of_filter == "none" else f"{metric},{of_filter}"),
        "few_shot": sorted({task.get_config("num_fewshot") or 0 for task in tasks}),
        "versions": {task.task_name: version for task in tasks if (version := _version(task))},
        "hub": _of_hub(tasks, limit),
    }
    return Benchmark(metric, of_filter, better, items, told, tuple(_notes(wish, tasks, items)), thinking, tuple(leaves))


def _metric(wish: HarnessTask, tasks: Sequence[Any]) -> tuple[str, str, Better]:
    """Finds the figure that counts, of which every item has one, by scoring empty answers.

    Raises:
        RecipeError: there is none of that name, it is no mean of items, or nobody says which of them is better.
    """
    found: list[str] = []
    whole: set[str] = set()
    for number, task in enumerate(tasks):
        of_task, others = _figures(task, wish.lm_eval)
        found = of_task if number == 0 else [each for each in found if each in of_task]
        whole |= others
    named = [each for each in found if wish.metric in (None, each, each.partition(",")[0])]
    if not named:
        why = f"of each item it tells {one_line(', '.join(found)) or 'nothing'}"
        if wish.metric and wish.metric.partition(",")[0] in whole:
            why = f"it is a figure of the whole set, and no mean of items, so nothing can be paired; {why}"
        fix = f"metric: {one_line(found[0])}" if found else "leave the task out"
        what = f"{wish.lm_eval} has no metric {wish.metric or 'of items'}"
        raise RecipeError(what, where=WHERE, why=why, fix=fix)
    metric, _, of_filter = named[0].rpartition(",")
    told = {task.higher_is_better().get(metric) for task in tasks}
    if told not in ({True}, {False}):
        why = "its tasks contradict each other" if len(told) > 1 else "neither the task nor the harness says so"
        fix = f"metric_list: [{{metric: {one_line(metric)}, aggregation: mean, higher_is_better: true}}]"
        raise RecipeError(f"is more of {one_line(metric)} better, or less?", where=WHERE, why=why, fix=fix)
    return metric, of_filter, "higher" if told == {True} else "lower"


def _figures(task: Any, source: str) -> tuple[list[str], set[str]]:
    """Lists the figures of a task's items with their filters, and those that only a whole set has.

    Raises:
        OutsideError: its code wants a package that is not installed.
        RecipeError: its code breaks on whatever is answered.
    """
    nothing = [("" if each.request_type == "generate_until" else (-1.0, False)) for each in task.instances]
    means: list[str] = []
    others: set[str] = set()
    with told_wrongs(source):
        for name, items in _scored(task, nothing).items():
            for metric in dict.fromkeys(key for each in items for key in each):
                is_figure = any(_number(each.get(metric)) is not None for each in items)
                if is_figure and _is_mean(task, metric):
                    means.append(f"{metric},{name}")
                else:
                    others.add(str(metric))
            if not any(items):  # nothing was scored: let the first item say why
                first = [each for each in task.instances if each.doc_id == task.instances[0].doc_id]
                task.process_results(first[0].doc, [each.filtered_resps[name] for each in first])
    return means, others


def _is_mean(task: Any, metric: Any) -> bool:
    """Whether a metric of a task is the mean of its items; one that it does not name is, as the harness has it."""
    over = task.aggregation().get(metric)
    return isinstance(metric, str) and (over is None or getattr(over, "__name__", "") in MEANS)


def _is_figure(value: Any) -> bool:
    """Tells a number, numpy's too, from what only a whole set makes a figure of."""
    return isinstance(value, int | float) or (
        hasattr(value, "dtype") and value.ndim == 0 and value.dtype.kind in "biuf"
    )


def _number(value: Any) -> float | None:
    """Reads a figure; None if it is no number, or none that is finite."""
    try:
        return float(value) if _is_figure(value) and math.isfinite(value) else None
    except OverflowError:
        return None


def _scored(task: Any, given: Sequence[Any]) -> dict[str, list[dict[str, Any]]]:
    """Gives, of each filter of a task, the metrics of each document; none of one in whose scoring something breaks.

    Args:
        task: of the harness, with its requests.
        given: the response to each.
    """
    by_doc: dict[int, list[Any]] = {}
    for instance, response in zip(task.instances, given, strict=True):
        instance.resps, instance.filtered_resps = [response], {}
        by_doc.setdefault(instance.doc_id, []).append(instance)
    task.apply_filters()
    return {
        name: [_of_doc(task, name, instances) for instances in by_doc.values()]
        for name in task.instances[0].filtered_resps
    }


def _of_doc(task: Any, name: str, instances: Sequence[Any]) -> dict[str, Any]:
    try:
        told = task.process_results(instances[0].doc, [each.filtered_resps[name] for each in instances])
    except wrongs():
        return {}
    return told if isinstance(told, dict) else {}


def _cut(answer: str, until: Sequence[str]) -> str:
    """Ends an answer before the first of the texts at which it should have ended."""
    ends = [at for text in until if text and (at := answer.find(text)) >= 0]
    return answer[: min(ends)] if ends else answer


def _likelihood(cost: float, likeliest: bool) -> tuple[float, bool]:
    return -cost, likeliest


def _version(task: Any) -> str:
    """Gives the version that a task says it has; nothing if it says none."""
    metadata = task.get_config("metadata")
    return one_line(str(metadata.get("version", ""))) if isinstance(metadata, dict) else ""


def _of_hub(tasks: Sequence[Any], limit: int | None) -> dict[str, str] | None:
    """Names the data set of the Hub that was asked whole; None if it was a part, several, or files of one's own."""
    sets = {(task.config.dataset_path, task.config.dataset_name) for task in tasks}
    changed = [task for task in tasks if task.config.custom_dataset or task.config.process_docs]
    part = [task for task in tasks if limit is not None and limit < len(task.eval_docs)]
    sliced = [task for task in tasks if "[" in f"{task.config.test_split} {task.config.validation_split}"]
    if len(sets) > 1 or changed or part or sliced:
        return None
    ((path, name),) = sets
    is_id = path and re.fullmatch(r"[\w.-]+/[\w.-]+", path) and not Path(path).exists()
    return {"dataset": path, "config": name or "default"} if is_id else None


def _notes(wish: HarnessTask, tasks: Sequence[Any], items: Sequence[Item]) -> list[str]:
    found, name = [], Path(wish.lm_eval).stem
    if wrong := sum(not each.answerable for each in items):
        found.append(f"{name}: {wrong} items expect what is none of their choices; nobody can be right there")
    if len(tasks) > 1:
        found.append(f"{name}: the items of its {len(tasks)} tasks count alike")
    if any((task.get_config("generation_kwargs") or {}).get("do_sample") for task in tasks):
        found.append(f"{name}: it would have answers drawn by chance; they are the likeliest here")
    return found
