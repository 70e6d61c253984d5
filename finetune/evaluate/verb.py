"""`finetune evaluate`: asks base, tuned model and GGUF files the same, scores the answers, and holds a gate.

Everything is measured before anything is written. A gate that fails is an error all the same: once all is written.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from finetune import __version__
from finetune.data import Renderer, renderer_of
from finetune.data.vocabulary import Vocabulary
from finetune.endpoints import Endpoint
from finetune.errors import ProofFailed
from finetune.evaluate import gate
from finetune.evaluate.benchmarks import Benchmark, read_benchmark
from finetune.evaluate.comparing import check_alike
from finetune.evaluate.items import Rows, held_out_rows, rows_of_file
from finetune.evaluate.jobs import Job, job_of_judge, make_jobs
from finetune.evaluate.judging import judge_all, judge_told
from finetune.evaluate.results import Results, Said, notes, prompts_of, rows, tasks_told
from finetune.evaluate.sides import Side, find_ggufs, settings, sides_of
from finetune.evaluate.tasks import Subject, subject_of, wished
from finetune.merge.order import take
from finetune.model import Score
from finetune.plan import read_plan
from finetune.recipe import HarnessTask, Recipe, Rule, Task, failed_rules, load, read_rule
from finetune.run import Claim, Entry, Run, atomic, claim, locked, manifest
from finetune.stopping import Stop

Say = Callable[[str], None]
Progress = Callable[[str, int, int, int], None]
"""Is told what is done, how many of how many items, and their tokens so far."""

FORMAT = 1


@dataclass(frozen=True)
class Wish:
    """What was asked for on the command line."""

    base: bool = True
    ggufs: tuple[Path, ...] = ()
    tasks: tuple[str, ...] = ()
    limit: int | None = None
    max_new_tokens: int = 256
    overrides: tuple[str, ...] = ()
    """Of the recipe's section `evaluate`."""
    cache: Path | None = None
    judge: Endpoint | None = None


def evaluate(run: Run, wish: Wish, stop: Stop, say: Say, progress: Progress) -> dict[str, Any]:
    """Compares what a run has trained with its base; writes eval/evaluation.json, which it gives, and eval/items.jsonl.

    Args:
        run: that finished.
        wish: what is compared, by what.
        stop: whether somebody asked to stop; before anything is written nothing is lost by it.
        say: takes a line for the user.
        progress: is told how far it is.

    Raises:
        ArtifactError: run, base or a GGUF is not what it was, or is asked otherwise.
        DataError: there is nothing to ask, or the rows are not those of the training.
        OutsideError: nothing here can run a GGUF file.
        ProofFailed: a rule of the gate failed, when all was written; or llama.cpp cannot run a file.
        RecipeError: there is no such task, or a rule speaks of none.
        RunLocked: another process works in the run.
    """
    began, recipe = time.monotonic(), load(run.recipe, wish.overrides)
    with locked(run):
        folder, inputs = _checked(run)
        plan, (renderer, thinking) = read_plan(run.plan), _as_served(run, recipe, folder)
        asked = settings(renderer, thinking, wish.max_new_tokens)
        jobs, rules = _jobs(run, recipe, folder, renderer, thinking, wish, say)
        ggufs = find_ggufs(run, wish.ggufs, folder, asked)
        if run.evaluation.is_file():
            say(f"this takes the place of {run.evaluation}, of which the manifest keeps the figures")
        said, told_sides = {}, {}
        for side in sides_of(run, plan, wish.base, ggufs, asked, wish.cache):
            said[side.name], told_sides[side.name] = _measure(side, jobs, wish.max_new_tokens, progress)
        check_alike(told_sides)
        results, tasks = _scored(Results(tuple(jobs), said, thinking, wish.max_new_tokens), wish, progress)
        judged = [(rule, [job.name for job in gate.of_rule(rule, jobs)]) for rule in rules]
        failed = gate.failures(judged, tasks)
        told = {
            "format": FORMAT,
            "run": run.name,
            "made": manifest.now(),
            "sides": told_sides,
            "tasks": tasks,
            "gate": {"rules": [rule.text for rule in rules], "failed": failed, "not_asked": _others(run, rules)},
            "notes": [*notes(results, tasks), *gate.notes(judged, tasks)],
        }
        stop.idle = ""  # from here on a signal waits until both files and their entry are there
        _write(run, told, results, renderer.vocabulary)
        manifest.add(run.manifest, _entry(run, told, inputs, began))
    if failed:
        raise ProofFailed("the gate failed", where=str(run.evaluation), why="; ".join(failed))
    return told


def _checked(run: Run) -> tuple[Path, dict[str, Any]]:
    """Compares what was trained, and its base, with their hashes; gives the base's folder, and what goes in.

    Raises:
        ArtifactError: one is another now, or the run did not finish.
    """
    order = take(run, "bf16")
    return order.base.folder, {key: value for key, value in order.inputs.items() if key != "onto"}


def _as_served(run: Run, recipe: Recipe, folder: Path) -> tuple[Renderer, bool]:
    """Gives what renders as the run was trained to be served, and whether it thinks."""
    serving = manifest.read_begun(run.manifest)["serving"]
    as_served = {key: serving[key] for key in ("system", "preserve_thinking")}
    return replace(renderer_of(recipe, folder), **as_served), serving["thinking"]


def _jobs(
    run: Run, recipe: Recipe, folder: Path, renderer: Renderer, thinking: bool, wish: Wish, say: Say
) -> tuple[list[Job], list[Rule]]:
    """Finds what is measured, and the rules of the gate."""
    tasks, known = wished(recipe, wish.tasks), None
    if wish.tasks:
        known = [subject_of(task) for task in wished(recipe, ()) or ()]
    if tasks is not None:  # else the rows decide what is asked
        gate.check_rules(recipe, [subject_of(task) for task in tasks], known, wish.base)
    held_out = held_out_rows(run, recipe, folder, renderer, thinking, wish.limit)
    files: dict[tuple[Any, ...], Rows] = {}

    def rows_of(task: Task) -> Rows:
        key = (task.file, *(task.columns or {}).items())
        if key not in files:
            files[key] = rows_of_file(task, recipe, renderer, thinking, wish.limit)
        return files[key]

    def benchmark_of(task: HarnessTask) -> Benchmark:
        say(f"reading the task {task.lm_eval} of lm-evaluation-harness")
        return read_benchmark(task, renderer, thinking, wish.limit, wish.max_new_tokens)

    jobs = make_jobs(tasks, held_out, rows_of, benchmark_of)
    subjects = [Subject(job.name, job.kind, job.set) for job in jobs]
    rules = gate.check_rules(recipe, subjects, known, wish.base)  # of which none can speak of the judge
    if wish.judge is not None:
        jobs.append(job_of_judge(held_out, wish.base))
    for job in jobs:
        say(f"{job.name}: {len(job.items)} items")
    return jobs, rules


def _others(run: Run, rules: Sequence[Rule]) -> list[str]:
    """Lists the rules of the run's own recipe that this evaluation did not judge."""
    own = [read_rule(text) for text in load(run.recipe).evaluate.fail_if]
    return [rule.text for rule in own if rule not in rules]


def _scored(results: Results, wish: Wish, progress: Progress) -> tuple[Results, list[dict[str, Any]]]:
    """Scores what the sides did and, if there is a judge, lets it compare what base and tuned model said."""
    tasks = tasks_told(results)
    if wish.judge is None:
        return results, tasks
    (job,) = [each for each in results.jobs if each.kind == "judge"]
    answers = [(results.text(asked, "base"), results.text(asked, "tuned")) for asked in job.questions]
    pairs = [(asked, *both) for asked, both in zip(job.questions, answers, strict=True)]
    judged = judge_all(wish.judge, pairs, _teller("judge", len(pairs), progress))
    preferred = {job.name: [each.tuned for each in judged]}
    return replace(results, preferred=preferred), [*tasks, judge_told(job, wish.judge, judged, answers)]


def _measure(side: Side, jobs: Sequence[Job], most: int, progress: Progress) -> tuple[Said, dict[str, Any]]:
    """Lets a side do everything; gives what it did, and what is told of it."""
    said, told = Said(), dict(side.told)
    for job in jobs:
        examples = job.benchmark.weighed if job.benchmark else job.examples
        if examples:
            tell = _teller(f"{side.name}: {job.kind if job.kind == 'loss' else job.name}", len(examples), progress)
            said.losses[job.name] = side.losses(examples, tell)
    if prompts := prompts_of(jobs, most):
        began = time.monotonic()
        tell = _teller(f"{side.name}: answers", len(prompts), progress)
        for allowed in sorted({each for _, each in prompts}):
            alike = [each for each in prompts if each[1] == allowed]
            answers = side.answers([ids for ids, _ in alike], allowed, tell)
            said.answers |= dict(zip(alike, answers, strict=True))
        seconds, tokens = time.monotonic() - began, sum(answer.tokens for answer in said.answers.values())
        told["speed"] = {"answers": len(prompts), "tokens": tokens, "seconds": round(seconds, 2)}
    for job in jobs:
        if job.benchmark:
            texts = [said.answers[each.ids, each.most].text for each in job.benchmark.prompts]
            score = said.losses.get(job.name, Score((), ()))
            costs = list(zip(score.losses, score.likeliest, strict=True))
            said.values[job.name] = job.benchmark.values(texts, costs)
    return said, told


def _teller(what: str, whole: int, progress: Progress) -> Callable[[int], None]:
    done, tokens = 0, 0

    def tell(more: int) -> None:
        nonlocal done, tokens
        done, tokens = done + 1, tokens + more
        progress(what, done, whole, tokens)

    return tell


def _write(run: Run, told: dict[str, Any], results: Results, vocabulary: Vocabulary) -> None:
    """Writes both files, each whole or not at all."""
    items = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows(results, vocabulary))
    with atomic.refusal_told(run.evaluation, "move what lies in its place, or mend the folder's permissions"):
        run.evaluation.parent.mkdir(exist_ok=True)
        atomic.write_text(run.evaluated_items, items)
        atomic.write_json(run.evaluation, told)


def _entry(run: Run, told: dict[str, Any], inputs: dict[str, Any], began: float) -> Entry:
    claims: list[Claim] = []
    for task in told["tasks"]:
        for side, score in task["scores"].items():
            claims.append(claim(f"{task['name']} of {side}, {task['unit']}", round(score["value"], 4)))
        for pair in task["pairs"]:
            claims.append(claim(f"{task['name']}: {pair['other']} against {pair['one']}", pair["verdict"]))
    if told["gate"]["rules"]:
        rules, failed = told["gate"]["rules"], told["gate"]["failed"]
        kept = len(rules) - len(failed_rules(rules, failed))
        claims.append(claim("rules of the gate that hold", kept, len(rules), holds=not failed))
    data = {task["name"]: task["data_sha256"] for task in told["tasks"]}
    return Entry(
        stage="evaluate",
        inputs={**inputs, "items": data},
        outputs={run.named(file): atomic.sha256(file) for file in (run.evaluation, run.evaluated_items)},
        claims=claims,
        versions={"finetune": __version__, **{name: version(name) for name in ("torch", "transformers")}},
        seconds=round(time.monotonic() - began, 1),
        finished=manifest.now(),
    )
