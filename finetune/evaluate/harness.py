"""Loads tasks of lm-evaluation-harness, and says of what is missing what it takes."""

from __future__ import annotations

import difflib
import importlib.util
import logging
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from finetune.errors import OutsideError, RecipeError
from finetune.recipe import HarnessTask

WHERE = "evaluate.tasks"

FEW_SHOT_SEED = 1234
"""By which few-shot examples are drawn; the harness's own."""


def load_tasks(wish: HarnessTask) -> tuple[list[Any], str]:
    """Finds the tasks that a name stands for, with their rows; gives the harness's version too.

    Raises:
        OutsideError: the harness is not installed, or a package or the rows of a task cannot be had.
        RecipeError: there is no such task, its file is none, or it runs code that a model writes.
    """
    if importlib.util.find_spec("lm_eval") is None:
        why, fix = "lm-evaluation-harness is not installed", "pip install 'finetune-proven[harness]'"
        raise OutsideError(f"the task {wish.lm_eval} cannot be asked", where=WHERE, why=why, fix=fix)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from lm_eval.tasks import TaskManager

    folder = Path(wish.lm_eval).parent if wish.lm_eval.endswith((".yaml", ".yml")) else None
    if folder is not None and not Path(wish.lm_eval).is_file():
        why, fix = f"nothing is at {wish.lm_eval}", f"ls {shlex.quote(str(folder))}"
        raise RecipeError(f"there is no file {Path(wish.lm_eval).name}", where=WHERE, why=why, fix=fix)
    with told_wrongs(wish.lm_eval):
        group = _group_of(Path(wish.lm_eval)) if folder is not None else None
        # a group's tasks are found by their names; a single task needs no index of all that there are
        manager = TaskManager(include_path=folder if group else None, include_defaults=folder is None or bool(group))
    name = group or wish.lm_eval
    if folder is None and name not in manager.task_index:
        close = difflib.get_close_matches(name, manager.all_tasks, n=3, cutoff=0.4)
        why = "lm_eval ls tasks lists what there is" + (f"; nearest: {', '.join(close)}" if close else "")
        fix = f"lm_eval: {close[0]}" if close else "lm_eval: gsm8k"
        raise RecipeError(f"the harness has no task {name}", where=WHERE, why=why, fix=fix)
    with told_wrongs(wish.lm_eval):
        tasks = list(manager.load(name)["tasks"].values())
    for task in tasks:
        if getattr(task, "UNSAFE_CODE", False) or task.get_config("unsafe_code"):
            why, fix = "it runs what a model writes", f"ask it in a sandbox: lm_eval --tasks {wish.lm_eval}"
            raise RecipeError(f"the task {task.task_name} is not asked here", where=WHERE, why=why, fix=fix)
        task.set_fewshot_seed(FEW_SHOT_SEED)
    return tasks, f"lm_eval {version('lm_eval')}"


def _group_of(file: Path) -> str | None:
    """Gives the name of the group that a file tells of; None of a single task."""
    from lm_eval.tasks._yaml_loader import load_yaml

    told = load_yaml(file, resolve_func=False, recursive=False).get("group")
    return told if isinstance(told, str) else None


def wrongs() -> tuple[type[BaseException], ...]:
    """Lists what a task's own words and code may raise, in reading it and in scoring an answer."""
    import yaml
    from datasets.exceptions import DatasetsError
    from jinja2 import TemplateError

    by_libraries = (DatasetsError, TemplateError, yaml.YAMLError, re.error)
    by_code = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError)
    return (*by_libraries, *by_code, RuntimeError, StopIteration, SyntaxError, SystemExit, TypeError, ValueError)


@contextmanager
def told_wrongs(name: str) -> Iterator[None]:
    """Turns what goes wrong in the harness and in a task's own code into an error that says what it takes.

    Raises:
        OutsideError: a package or the rows cannot be had.
        RecipeError: the task is written wrongly.
    """
    try:
        yield
    except wrongs() as error:
        if isinstance(error, ImportError) and error.name and error.name.isidentifier():
            why, fix = f"it takes a package that is not installed: {error}", f"pip install {error.name}"
            raise OutsideError(f"the task {name} cannot be asked", where=WHERE, why=why, fix=fix) from None
        if isinstance(error, OSError) and not error.filename:  # of a file that a task names, the harness tells which
            fix = "HF_HUB_OFFLINE=0, a network, or a task of a local file: docs/evaluate.md"
            what, why = f"the rows of the task {name} cannot be had", one_line(str(error))
            raise OutsideError(what, where=WHERE, why=why, fix=fix) from None
        why, fix = one_line(f"{type(error).__name__}: {error}"), f"lm_eval validate --tasks {shlex.quote(name)}"
        raise RecipeError(f"the task {name} is written wrongly", where=WHERE, why=why, fix=fix) from None


def one_line(text: str) -> str:
    """Lays others' words on one line without what a terminal would obey."""
    line = " ".join(text.split())
    return "".join(each if each.isprintable() else "�" for each in line)[:300]
