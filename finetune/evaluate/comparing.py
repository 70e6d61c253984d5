"""What must be the same for two figures to be compared: how models are asked, by what, and on which items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.errors import ArtifactError

ASKED_ALIKE = ("template", "tokenizer", "thinking", "preserve_thinking", "system", "sampling")
"""What must be the same of two sides."""


def check_alike(sides: Mapping[str, Mapping[str, Any]]) -> None:
    """Makes sure that all sides of an evaluation are asked alike.

    Raises:
        ArtifactError: naming what differs.
    """
    (first, one), *others = sides.items()
    for name, other in others:
        for key in ASKED_ALIKE:
            if one[key] != other[key]:
                why = f"{first} has {str(one[key])[:60]}, {name} has {str(other[key])[:60]}"
                raise ArtifactError(f"the {key} of {name} is not that of {first}", where="sides", why=why)


def check_comparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Makes sure that two evaluations can be compared: asked alike, by one engine, on the same items.

    Args:
        one: what stands in an evaluation.json.
        other: what stands in another.

    Raises:
        ArtifactError: naming each thing that differs.
    """
    where = f"{one['run']} and {other['run']}"
    for side in [name for name in one["sides"] if name in other["sides"]]:
        for key in (*ASKED_ALIKE, "engine"):
            was, now = one["sides"][side][key], other["sides"][side][key]
            if was != now:
                why = f"it was {str(was)[:60]} and is {str(now)[:60]}"
                raise ArtifactError(f"the evaluations differ in the {key} of {side}", where=where, why=why)
    tasks = {task["name"]: task["data_sha256"] for task in other["tasks"]}
    for task in one["tasks"]:
        if task["name"] in tasks and task["data_sha256"] != tasks[task["name"]]:
            why = "other items, or in another order"
            raise ArtifactError(f"the evaluations differ in the items of {task['name']}", where=where, why=why)
