"""Two runs compared with each other, item by item, by what their evaluations left: which of two recipes is better."""

from __future__ import annotations

import json
from typing import Any

from finetune.errors import ArtifactError
from finetune.evaluate.comparing import check_comparable
from finetune.evaluate.figures import of_means, of_values, with_verdicts
from finetune.run import Run, manifest, outputs

SIDE = "tuned"


def compare(one: Run, other: Run) -> dict[str, Any]:
    """Compares what two runs have tuned, on the tasks that both were asked.

    Args:
        one: an evaluated run.
        other: another, or one of the same recipe.

    Returns:
        Tasks as evaluation.json has them, with the names of the runs as sides.

    Raises:
        ArtifactError: one was not evaluated, its figures are not what was proven, or they were not asked alike.
    """
    told, others = _evaluation(one), _evaluation(other)
    check_comparable(told, others)
    names = (one.name, other.name) if one.name != other.name else (str(one.path), str(other.path))
    mine, theirs = _items(one), _items(other)
    tasks, notes = [], []
    by_name = {task["name"]: task for task in others["tasks"]}
    for task in told["tasks"]:
        if task["name"] in by_name and task["kind"] != "judge":
            both = list(zip(mine[task["name"]], theirs[task["name"]], strict=True))
            whole = [pair for pair in both if None not in pair]
            if len(whole) < len(both):
                lost = len(both) - len(whole)
                notes.append(f"{task['name']}: {lost} items of which a run has no figure are left out")
            if whole:
                tasks.append(_task(task, names, whole))
    left = {task["name"] for task in told["tasks"]} ^ by_name.keys()
    notes += [f"{name}: only one of the runs was asked" for name in sorted(left)]
    if not tasks:
        why, fix = "no task was asked of both", outputs.command("evaluate", other)
        raise ArtifactError("there is nothing to compare", where=str(other.evaluation), why=why, fix=fix)
    return {"runs": list(names), "tasks": with_verdicts(tasks), "notes": notes}


def _task(task: dict[str, Any], names: tuple[str, str], pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    head = {key: task[key] for key in ("name", "kind", "set", "unit", "better", "data_sha256")}
    sides = {name: [pair[number] for pair in pairs] for number, name in enumerate(names)}
    if task["kind"] != "loss":
        return {**head, "items": len(pairs), **of_values(sides)}
    weights = [weight for (_, weight), _ in pairs]
    sums = {name: [value * weight for value, weight in each] for name, each in sides.items()}
    return {**head, "items": len(pairs), **of_means(sums, weights)}


def _evaluation(run: Run) -> dict[str, Any]:
    """Reads the newest evaluation of a run, whose files are those that its manifest names.

    Raises:
        ArtifactError: there is none, or it is another one.
    """
    fix = outputs.command("evaluate", run)
    entry = outputs.last(manifest.read(run.manifest), "evaluate")
    if entry is None:
        raise ArtifactError("the run was not evaluated", where=str(run.path), why="nothing can be compared", fix=fix)
    outputs.check(run, entry["outputs"], fix)
    told: dict[str, Any] = json.loads(run.evaluation.read_bytes())
    if SIDE not in told["sides"]:
        raise ArtifactError("the tuned model was not asked", where=str(run.evaluation), why="it is compared", fix=fix)
    return told


def _items(run: Run) -> dict[str, list[Any]]:
    """Reads of each task the figures of its items: a score, or a loss with its tokens; None where there is none."""
    found: dict[str, list[Any]] = {}
    for line in run.evaluated_items.read_text().splitlines():
        row = json.loads(line)
        side = row["sides"][SIDE]
        figure = side["score"] if side["loss"] is None else (side["loss"], side["tokens"])
        found.setdefault(row["task"], []).append(figure)
    return found
