"""What an evaluation asked beside the rows that training held out: files of the recipe, and public benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune import atomic
from finetune.recipe import Recipe, Task

HELD_OUT = "held_out"
"""What evaluation.json calls the rows that training held out."""


@dataclass(frozen=True)
class Asked:
    """A set of items."""

    name: str
    """Of the file without its folder, of the data set at the Hub, or of the benchmark."""
    hub: bool
    """Whether that is a data set's id at the Hub."""
    tasks: tuple[str, ...]
    """That asked it."""
    items: int
    """The most that one of them asked."""
    harness: str = ""
    """Which program read it, where it was lm-evaluation-harness."""
    sha256: str = ""
    """Of the file as it is now; empty where it is none, or is not on this machine any more."""


def read_asked(recipe: Recipe, evaluation: dict[str, Any] | None) -> tuple[Asked, ...]:
    """Lists what the newest evaluation asked; rows that training held out are among the sources already.

    Args:
        recipe: of the run, which says where files are.
        evaluation: as it stands in evaluation.json; None where nothing was asked.
    """
    files = {each.file for each in recipe.evaluate.tasks or () if isinstance(each, Task) and each.file}
    stems = [file.stem for file in files]
    paths = {file.stem: file for file in files if stems.count(file.stem) == 1}  # of two alike nobody knows which
    found: dict[str, Asked] = {}
    for task in evaluation["tasks"] if evaluation else ():
        digest, harness, hub = "", task.get("harness", ""), task.get("hub")
        if harness:
            name = hub["dataset"] if hub else task["name"]
        elif (name := task.get("file", HELD_OUT)) == HELD_OUT:
            continue
        elif path := paths.get(name):
            name, digest = path.name, atomic.sha256(path) if path.is_file() else ""
        before = found.get(name)
        tasks = (*(before.tasks if before else ()), task["name"])
        items = max(task["items"], before.items if before else 0)
        found[name] = Asked(name, bool(hub), tasks, items, harness, digest)
    return tuple(found.values())
