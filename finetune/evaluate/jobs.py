"""The tasks of an evaluation with their items, and how an answer to each is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from finetune.data import Example
from finetune.errors import DataError, RecipeError
from finetune.evaluate import scores
from finetune.evaluate.benchmarks import Benchmark
from finetune.evaluate.calls import by_calls
from finetune.evaluate.items import Question, Rows, item_of_example, sha256_of
from finetune.evaluate.schema import validator
from finetune.evaluate.scores import Scored
from finetune.evaluate.tasks import HARNESS, Wished, name_of
from finetune.recipe import HarnessTask, Task

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
    benchmark: Benchmark | None = None
    """Of lm-evaluation-harness, in place of both."""
    score: ScoreOf | None = None
    labels: tuple[str, ...] = ()
    named: Literal["first", "last"] = "last"
    """Of a choice: what can be chosen, and which counts where an answer names several."""
    told: Mapping[str, Any] | None = None
    """More of it for evaluation.json."""
    notes: tuple[str, ...] = ()

    @property
    def items(self) -> tuple[str, ...]:
        """Identities of its items, in their order."""
        if self.benchmark:
            return tuple(each.sha256 for each in self.benchmark.items)
        return tuple(map(item_of_example, self.examples)) + tuple(each.item for each in self.questions)

    @property
    def data_sha256(self) -> str:
        """Identifies its set of items."""
        return sha256_of(self.items)


def make_jobs(
    tasks: Sequence[Wished] | None,
    held_out: Rows,
    rows_of: Callable[[Task], Rows],
    benchmark_of: Callable[[HarnessTask], Benchmark],
) -> list[Job]:
    """Gives tasks their items.

    Args:
        tasks: that are wished for; None takes what the held-out rows allow.
        held_out: rows that training held out.
        rows_of: reads the rows of a task's file.
        benchmark_of: reads a task of lm-evaluation-harness.

    Raises:
        DataError: the rows of a task hold nothing that it could score.
        RecipeError: two tasks have one name, or a schema is none.
    """
    if tasks is None:
        tasks = _default(held_out)
    jobs: list[Job] = []
    for task in tasks:
        if isinstance(task, HarnessTask):
            benchmark = benchmark_of(task)
            job = Job(name_of(task), HARNESS, task.set, benchmark=benchmark, told=benchmark.told, notes=benchmark.notes)
        else:
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


def _default(held_out: Rows) -> list[Wished]:
    """Chooses what is scored where nobody says: the loss always, and answers that can be compared."""
    found: list[Wished] = [Task(score="loss")]
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
            job = replace(job, examples=rows.examples, notes=(*rows.notes, *rows.of_loss))
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
                labels=labels,
                named=task.named,
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
