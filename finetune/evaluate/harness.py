"""Loads tasks of lm-evaluation-harness, and says of what is missing what it takes."""

from __future__ import annotations

import difflib
import importlib.util
import logging
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

    is_file = wish.lm_eval.endswith((".yaml", ".yml"))
    if is_file and not Path(wish.lm_eval).is_file():
        why, fix = f"nothing is at {wish.lm_eval}", f"ls {Path(wish.lm_eval).parent}"
        raise RecipeError(f"there is no file {Path(wish.lm_eval).name}", where=WHERE, why=why, fix=fix)
    with told_wrongs(wish.lm_eval):
        manager = TaskManager(include_defaults=not is_file)
    if not is_file and wish.lm_eval not in manager.task_index:
        close = difflib.get_close_matches(wish.lm_eval, manager.all_tasks, n=3, cutoff=0.4)
        why = "lm_eval ls tasks lists what there is" + (f"; nearest: {', '.join(close)}" if close else "")
        fix = f"lm_eval: {close[0]}" if close else "lm_eval: gsm8k"
        raise RecipeError(f"the harness has no task {wish.lm_eval}", where=WHERE, why=why, fix=fix)
    with told_wrongs(wish.lm_eval):
        tasks = list(manager.load(wish.lm_eval)["tasks"].values())
    for task in tasks:
        if getattr(task, "UNSAFE_CODE", False) or task.get_config("unsafe_code"):
            why, fix = "it runs what a model writes", f"ask it in a sandbox: lm_eval --tasks {wish.lm_eval}"
            raise RecipeError(f"the task {task.task_name} is not asked here", where=WHERE, why=why, fix=fix)
        task.set_fewshot_seed(FEW_SHOT_SEED)
    return tasks, f"lm_eval {version('lm_eval')}"


@contextmanager
def told_wrongs(name: str) -> Iterator[None]:
    """Turns what goes wrong in the harness and in a task's own code into an error that says what it takes.

    Raises:
        OutsideError: a package or the rows cannot be had.
        RecipeError: the task is written wrongly.
    """
    import yaml
    from datasets.exceptions import DatasetsError
    from jinja2 import TemplateError

    try:
        yield
    except ImportError as error:
        fix = f"pip install {error.name}" if error.name else f"pip install 'lm_eval[{name}]'"
        why = f"it takes a package that is not installed: {error}"
        raise OutsideError(f"the task {name} cannot be asked", where=WHERE, why=why, fix=fix) from None
    except OSError as error:
        fix = "HF_HUB_OFFLINE=0, a network, or a task of a local file: docs/evaluate.md"
        raise OutsideError(f"the rows of the task {name} cannot be had", where=WHERE, why=str(error), fix=fix) from None
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError, TemplateError, yaml.YAMLError) as error:
        raise _wrong(name, error) from None
    except DatasetsError as error:
        raise _wrong(name, error) from None


def _wrong(name: str, error: Exception) -> RecipeError:
    why = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    return RecipeError(f"the task {name} is written wrongly", where=WHERE, why=why, fix="see docs/evaluate.md")
