"""Which tasks an evaluation has: those of the recipe or, where it names none, those that the rows allow."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune.data import Example
from finetune.errors import DataError, RecipeError
from finetune.evaluate import scores
from finetune.evaluate.calls import by_calls
from finetune.evaluate.items import Question, Rows, item_of_example, sha256_of
from finetune.evaluate.schema import validator
from finetune.evaluate.scores import Scored
from finetune.recipe import Recipe, Rule, Task, of_set, read_rule
from finetune.recipe.gate import SCORES

SHORT_CHARACTERS = 80
"""Of an answer that is compared word for word, where the recipe does not say how."""

MOST_LABELS = 200
"""That answers are taken to choose from, where the recipe does not say so."""

ScoreOf = Callable[[str, Question], Scored]


@dataclass(frozen=True)
class Job:
    """A task with its items."""

    name: str
    kind: str
    set: str
    examples: tuple[Example, ...] = ()
    """Whose loss is measured."""
    questions: tuple[Question, ...] = ()
    """That are asked."""
    score: ScoreOf | None = None
    told: Mapping[str, Any] | None = None
    """More of it for evaluation.json."""
    notes: tuple[str, ...] = ()

    @property
    def items(self) -> tuple[str, ...]:
        """Identities of its items, in their order."""
        return tuple(map(item_of_example, self.examples)) + tuple(each.item for each in self.questions)

    @property
    def data_sha256(self) -> str:
        """Identifies its set of items."""
        return sha256_of(self.items)


def wished(recipe: Recipe, names: Sequence[str]) -> tuple[Task, ...] | None:
    """Lists the tasks that are wished for, in the recipe or by their names; None leaves it to the rows.

    Args:
        recipe: of the run.
        names: of tasks of the recipe, or scores of the held-out rows.

    Raises:
        RecipeError: there is no such task.
    """
    told = [_task(each) for each in recipe.evaluate.tasks] if recipe.evaluate.tasks else None
    if not names:
        return tuple(told) if told else None
    known = {name_of(each): each for each in told or ()}
    found: list[Task] = []
    for name in names:
        named = [each for key, each in known.items() if key == name]
        scored = [each for each in known.values() if each.score == name]
        if not (named or scored):
            named = [_word(name, known)]
        found += [each for each in (named or scored) if each not in found]
    return tuple(found)


def name_of(task: Task) -> str:
    """Names a task."""
    return task.name or f"{task.file.stem if task.file else 'held_out'} {task.score}"


def make_jobs(tasks: Sequence[Task] | None, held_out: Rows, rows_of: Callable[[Task], Rows]) -> list[Job]:
    """Gives tasks their items.

    Args:
        tasks: that are wished for; None takes what the held-out rows allow.
        held_out: rows that training held out.
        rows_of: reads the rows of a task's file.

    Raises:
        DataError: the rows of a task hold nothing that it could score.
        RecipeError: two tasks have one name, or a schema is none.
    """
    if tasks is None:
        tasks = _default(held_out)
    jobs: list[Job] = []
    for task in tasks:
        job = _job(task, rows_of(task) if task.file else held_out)
        if any(each.name == job.name for each in jobs):
            why, fix = "each is told, and named in rules, by its name", f"name: {job.name.replace(' ', '-')}-2"
            raise RecipeError(f"two tasks are called {job.name}", where="evaluate.tasks", why=why, fix=fix)
        jobs.append(job)
    return jobs


def job_of_judge(held_out: Rows, with_base: bool) -> Job:
    """Gives a judge the held-out rows whose answer is text.

    Raises:
        DataError: there are none.
        RecipeError: there is no base to compare with.
    """
    if not with_base:
        why = "it is asked which of two answers is better"
        raise RecipeError("a judge needs the base", where="--judge", why=why, fix="leave out --no-base")
    questions = tuple(each for each in held_out.questions if not each.calls and each.expected)
    if not questions:
        why = "held-out rows end in tool calls, or are texts"
        raise DataError("there is nothing to judge", where="--judge", why=why, fix="leave it out")
    return Job(f"{held_out.name} judge", "judge", "domain", questions=questions, notes=held_out.notes)


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


def _task(told: Task | str) -> Task:
    """Writes a word out as the task that it stands for."""
    return told if isinstance(told, Task) else Task(score=told)  # type: ignore[arg-type]


def _word(name: str, known: Mapping[str, Task]) -> Task:
    """Reads a task from the command line that the recipe does not name.

    Raises:
        RecipeError: it is no score either.
    """
    without = [score for score in SCORES if score != "regex"]
    if name in without:
        return Task(score=name)
    choices = [*known, *without]
    why = f"there are {', '.join(choices)}"
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.0)
    raise RecipeError(f"there is no task {name}", where=f"--tasks {name!a:.80}", why=why, fix=f"--tasks {close[0]}")


def _default(held_out: Rows) -> list[Task]:
    """Chooses what is scored where nobody says: the loss always, and answers that can be compared."""
    found: list[Task] = [Task(score="loss")]
    if any(each.calls for each in held_out.questions):
        found.append(Task(score="tool_call"))
    texts = [each.expected for each in held_out.questions if not each.calls]
    distinct = set(map(scores.normalised, texts))
    short = all(len(text) <= SHORT_CHARACTERS and "\n" not in text for text in texts)
    if texts and short and 2 * len(distinct) <= len(texts) and len(distinct) <= MOST_LABELS:
        found += [Task(score="exact"), *([Task(score="choice")] if len(distinct) > 1 else [])]
    return found


def _job(task: Task, rows: Rows) -> Job:
    """Gives a task its items.

    Raises:
        DataError: there are none.
        RecipeError: its schema is none.
    """
    job = Job(name_of(task), task.score, task.set, told={"file": rows.name}, notes=rows.notes)
    match task.score:
        case "loss":
            job = replace(job, examples=rows.examples)
        case "tool_call":
            asked = tuple(each for each in rows.questions if each.calls or each.tools)
            job = replace(job, questions=asked, score=lambda said, asked: by_calls(said, asked.calls)[0])
            if silent := sum(not each.calls for each in asked):
                note = (
                    f"{job.name}: {silent} of {len(asked)} rows expect no call; whatever calls nothing is right there"
                )
                job = replace(job, notes=(*job.notes, note))
        case "json":
            job = _of_json(job, task, rows)
        case _:
            job = replace(job, questions=tuple(each for each in rows.questions if not each.calls and each.expected))
            job = _of_text(job, task)
    if not job.items:
        what = (
            "rows" if task.score == "loss" else "rows with tools" if task.score == "tool_call" else "answers in words"
        )
        why = f"{rows.name} holds no {what} that it could score"
        raise DataError(f"the task {job.name} has no items", where="evaluate.tasks", why=why, fix="leave it out")
    return job


def _of_text(job: Job, task: Task) -> Job:
    """Adds how texts are compared."""
    match task.score:
        case "regex":
            pattern = task.pattern or ""
            return replace(job, score=lambda said, asked: scores.by_pattern(said, asked.expected, pattern))
        case "contains":
            return replace(job, score=lambda said, asked: scores.contains(said, asked.expected))
        case "choice" if job.questions:
            expected = [each.expected for each in job.questions]
            labels = task.labels or tuple(dict.fromkeys(expected))
            label, times = scores.majority(expected)
            told = {
                **(job.told or {}),
                "labels": len(labels),
                "majority": {"label": label, "share": times / len(expected)},
            }
            note = f"{job.name}: always saying {label!r} would score {times / len(expected):.1%}"
            return replace(
                job,
                score=lambda said, asked: scores.by_choice(said, asked.expected, labels, task.named),
                told=told,
                notes=(*job.notes, note),
            )
        case _:
            return replace(job, score=lambda said, asked: scores.exact(said, asked.expected))


def _of_json(job: Job, task: Task, rows: Rows) -> Job:
    """Adds how JSON is compared, of the rows whose answer is JSON."""
    wanted: dict[str, Any] = {}
    for each in rows.questions:
        try:
            wanted[each.item] = scores.parsed(each.expected)
        except ValueError:
            continue
    check = validator(task.json_schema) if task.json_schema else None
    left = len(rows.questions) - len(wanted)
    notes = (f"{job.name}: {left} rows whose answer is no JSON are not asked",) if left else ()

    def score(said: str, asked: Question) -> Scored:
        try:
            found = scores.parsed(said)
        except ValueError:
            return Scored(False, "not JSON")
        if check is not None and (wrong := check(found)):
            return Scored(False, f"breaks the schema: {wrong}")
        return Scored(scores.same_json(found, wanted[asked.item]), "")

    asked = tuple(each for each in rows.questions if each.item in wanted)
    return replace(job, questions=asked, score=score, notes=(*job.notes, *notes))
