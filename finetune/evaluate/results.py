"""What the sides said and lost, item by item, and what follows from it: scores, paired differences, flips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.data.vocabulary import Vocabulary
from finetune.evaluate.answering import Answer
from finetune.evaluate.calls import by_calls
from finetune.evaluate.figures import of_means, of_shares, of_values, with_verdicts
from finetune.evaluate.items import Question
from finetune.evaluate.jobs import Job
from finetune.evaluate.requests import Prompt
from finetune.evaluate.scores import NO_ANSWER, Scored, chosen, normalised, spoken
from finetune.evaluate.tasks import HARNESS
from finetune.model import Score
from finetune.statistics import (
    ENOUGH_UNITS,
    Better,
)

Asked = tuple[tuple[int, ...], int]
"""Ids of a prompt, and the most tokens that its answer may have."""


@dataclass
class Said:
    """What one side did."""

    losses: dict[str, Score] = field(default_factory=dict)
    """Task -> of its examples."""
    answers: dict[Asked, Answer] = field(default_factory=dict)
    values: dict[str, list[float | None]] = field(default_factory=dict)
    """Task of lm-evaluation-harness -> the figure of each item; None where there is none."""


@dataclass(frozen=True)
class Results:
    """Of all sides."""

    jobs: tuple[Job, ...]
    sides: Mapping[str, Said]
    """In the order base, tuned, GGUF files; who is not compared is not among them."""
    thinking: bool
    most: int
    """Tokens of an answer, where its task does not say."""
    preferred: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Task of a judge -> of each item, how far the tuned model's answer is preferred to the base's."""

    def text(self, asked: Question, side: str) -> str:
        """Gives what a side said, without its reasoning; nothing if that never ended."""
        return spoken(self.sides[side].answers[asked.ids, self.most].text, self.thinking) or ""

    def figures(self, job: Job) -> dict[str, list[float]]:
        """Gives the harness's figures of each side, of the items of which every side has one."""
        told = {side: said.values[job.name] for side, said in self.sides.items()}
        whole = [each for each in zip(*told.values(), strict=True) if None not in each]
        return {side: [each[number] for each in whole] for number, side in enumerate(told)}

    def scored(self, job: Job, side: str) -> list[Scored]:
        """Scores each answer of a side."""
        return [self.scored_item(job, number, side) for number in range(len(job.questions))]

    def scored_item(self, job: Job, number: int, side: str) -> Scored:
        """Scores one of them."""
        asked = job.questions[number]
        said = spoken(self.sides[side].answers[asked.ids, self.most].text, self.thinking)
        assert job.score is not None
        return NO_ANSWER if said is None else job.score(said, asked)


def tasks_told(results: Results) -> list[dict[str, Any]]:
    """Gives the tasks as they stand in evaluation.json."""
    measured = [job for job in results.jobs if job.kind != "judge"]
    how = {"loss": _loss, HARNESS: _values}
    told = with_verdicts([how.get(job.kind, _answers)(job, results) for job in measured])
    return told if "base" in results.sides else [{**task, "flips": None} for task in told]


def _head(job: Job, unit: str, better: Better) -> dict[str, Any]:
    head = {"name": job.name, "kind": job.kind, "set": job.set, "unit": unit, "better": better}
    return {**head, "items": len(job.items), "data_sha256": job.data_sha256, **(job.told or {})}


def _loss(job: Job, results: Results) -> dict[str, Any]:
    """Tells the loss of each side, and the differences, drawn by examples and weighed by tokens."""
    scores = {side: said.losses[job.name] for side, said in results.sides.items()}
    tokens = next(iter(scores.values())).tokens
    told = of_means({side: score.losses for side, score in scores.items()}, tokens)
    return {**_head(job, "nats a token", "lower"), "tokens": sum(tokens), **told}


def _answers(job: Job, results: Results) -> dict[str, Any]:
    """Tells the share of right answers of each side, and the differences."""
    right = {side: [each.right for each in results.scored(job, side)] for side in results.sides}
    task = {**_head(job, "share right", "higher"), **of_shares(right)}
    if job.kind == "tool_call":
        task["calls"] = {side: _calls(job, results, side) for side in results.sides}
    return task


def _values(job: Job, results: Results) -> dict[str, Any]:
    """Tells the harness's figure of each side: as shares where each item is right or wrong, else as means."""
    assert job.benchmark is not None
    values = results.figures(job)
    head = {**_head(job, job.benchmark.told["metric"], job.benchmark.better), "items": len(next(iter(values.values())))}
    if not head["items"]:
        return {**head, "scores": {}, "pairs": [], "flips": None}
    return {**head, **of_values(values)}


def _calls(job: Job, results: Results, side: str) -> dict[str, int]:
    """Counts the calls that are expected, and those of them that were made."""
    made = [by_calls(results.text(asked, side), asked.calls)[1] for asked in job.questions]
    return {"expected": sum(len(asked.calls) for asked in job.questions), "made": sum(made)}


def notes(results: Results, tasks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yields what one should know of the tasks and the answers.

    Of answers: which were cut, in which a thought never ended, and where always saying one thing would do as well.
    """
    yield from dict.fromkeys(note for job in results.jobs for note in job.notes)
    for task in tasks:
        if 0 < task["items"] < ENOUGH_UNITS:
            yield f"{task['name']}: so few items show no change, and their intervals mean little"
        if (lost := sum(len(job.items) for job in results.jobs if job.name == task["name"]) - task["items"]) > 0:
            yield f"{task['name']}: {lost} items of which a side has no figure are left out"
        base = task["scores"].get("base")
        if task["set"] == "regression" and task["better"] == "higher" and base and base["value"] <= 0:
            yield f"{task['name']}: the base answers none of it right, so it cannot show that anything was forgotten"
        for side, score in task["scores"].items():
            if "majority" in task and side != "base" and score["low"] <= task["majority"]["share"]:
                yield f"{task['name']}: {side} is not shown to beat always saying {task['majority']['label']!r}"
    for told in (task["judge"] for task in tasks if "judge" in task):
        words = " -> ".join(f"{each:g}" for each in told["words"].values())
        yield (
            f"judge {told['model']} (prompt {told['prompt_sha256'][:8]}): tuned wins {told['wins']}, loses "
            f"{told['losses']}, ties {told['ties']}; in {told['inconsistent']} the orders disagree, "
            f"{told['not_understood']} were not understood; words of an answer {words}"
        )
    for job in results.jobs:
        if job.labels:
            yield from _unnamed(job, results)
    asked = prompts_of(results.jobs, results.most)
    for side, said in results.sides.items():
        cut = sum(not said.answers[each].ended for each in asked)
        silent = sum(spoken(said.answers[each].text, results.thinking) is None for each in asked)
        if cut:
            mosts = " or ".join(map(str, sorted({most for _, most in asked})))
            yield f"{side}: {cut} of {len(asked)} answers were cut at {mosts} tokens; --max-new-tokens gives more"
        if silent:
            yield f"{side}: {silent} of {len(asked)} answers never end their thought and count as no answer"


def _unnamed(job: Job, results: Results) -> Iterator[str]:
    """Tells who never names some of the labels that are expected."""
    expected = {normalised(each.expected) for each in job.questions}
    for side in results.sides:
        named = {chosen(results.text(asked, side), job.labels, job.named) for asked in job.questions} - {None}
        if len(named) < len(expected):
            yield f"{job.name}: {side} ever names {len(named)} of the {len(expected)} labels that are expected"


def rows(results: Results, vocabulary: Vocabulary) -> Iterator[dict[str, Any]]:
    """Yields a line of items.jsonl for each item of each task."""
    for job in results.jobs:
        for number, item in enumerate(job.items):
            shown = _shown(job, number, vocabulary)
            sides = {side: told for side in results.sides if (told := _of_item(job, number, side, results))}
            yield {"task": job.name, "item": item, **shown, "sides": sides}


def _shown(job: Job, number: int, vocabulary: Vocabulary) -> dict[str, Any]:
    """Shows what an item asks and expects."""
    if job.benchmark:
        item = job.benchmark.items[number]
        return {"place": item.place, "prompt": item.prompt, "expected": item.expected}
    if job.kind == "loss":
        example = job.examples[number]
        learnt = [i for i, each in zip(example.ids, example.learnt, strict=True) if each]
        prompt = vocabulary.decode(example.ids[: example.learnt.index(True)])
        return {"place": example.place, "prompt": prompt, "expected": vocabulary.decode(learnt)}
    asked = job.questions[number]
    told: dict[str, Any] = {"place": asked.place, "prompt": asked.prompt, "expected": asked.expected}
    return {**told, "expected_calls": [call["function"] for call in asked.calls]} if asked.calls else told


def _of_item(job: Job, number: int, side: str, results: Results) -> dict[str, Any] | None:
    said = results.sides[side]
    if job.kind == "loss":
        if job.name not in said.losses:
            return None
        found = said.losses[job.name]
        loss, tokens = found.losses[number], found.tokens[number]
        return {"answer": None, "score": None, "loss": loss / tokens, "tokens": tokens}
    if job.benchmark:
        requests = job.benchmark.items[number].requests
        answered = [said.answers[each.ids, each.most] for each in requests if isinstance(each, Prompt)]
        told = {"answer": answered[0].text if answered else None, "score": said.values[job.name][number], "loss": None}
        return {**told, "tokens": sum(each.tokens for each in answered)}
    answer = said.answers[job.questions[number].ids, results.most]
    if job.kind == "judge":
        if side not in ("base", "tuned"):
            return None
        tuned = results.preferred[job.name][number]
        score = tuned if side == "tuned" else 1 - tuned
        return {"answer": answer.text, "score": score, "loss": None, "tokens": answer.tokens}
    scored = results.scored_item(job, number, side)
    told = {"answer": answer.text, "score": float(scored.right), "loss": None, "tokens": answer.tokens}
    return {**told, **({"why": scored.why} if scored.why else {}), **({} if answer.ended else {"cut": True})}


def prompts_of(jobs: Sequence[Job], most: int) -> list[Asked]:
    """Lists what is answered for all tasks, each once.

    Args:
        jobs: the tasks.
        most: tokens of an answer, where its task does not say.
    """
    found: list[Asked] = []
    for job in jobs:
        found += [(each.ids, most) for each in job.questions]
        found += [(each.ids, each.most) for each in (job.benchmark.prompts if job.benchmark else ())]
    return list(dict.fromkeys(found))
