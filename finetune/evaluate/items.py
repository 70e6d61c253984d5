"""What is asked and what is scored: the questions of a set of rows, and the examples whose loss is measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.data import Dataset, Example, Renderer, Row, read_held_out, read_rows
from finetune.data.split import drawn_first
from finetune.errors import DataError
from finetune.merge.prompts import read_dataset
from finetune.recipe import Recipe, Task
from finetune.run import Run, anew

HELD_OUT = "held_out"
"""What the rows that training held out are called."""


@dataclass(frozen=True)
class Question:
    """A prompt, and the answer that its row gives."""

    item: str
    """Identifies what is asked and what is expected, whatever file it stands in."""
    place: str
    """`file:line` of the row."""
    ids: tuple[int, ...]
    """The prompt as the model sees it."""
    prompt: str
    """The same for a reader, without the system prompt."""
    expected: str
    """The text of the answer; empty where it only calls tools."""
    calls: tuple[dict[str, Any], ...]
    """That are expected, normalised."""
    tools: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Rows:
    """A set of rows that is asked."""

    name: str
    questions: tuple[Question, ...]
    examples: tuple[Example, ...]
    """Of the same rows, for the loss."""
    notes: tuple[str, ...] = ()
    of_loss: tuple[str, ...] = ()
    """Notes on the examples."""


def held_out_rows(run: Run, recipe: Recipe, base: Path, renderer: Renderer, thinking: bool, limit: int | None) -> Rows:
    """Reads the rows that training held out, and makes sure that they are those.

    Args:
        run: of them.
        recipe: of it.
        base: the folder of tokenizer and template.
        renderer: as the run renders.
        thinking: as the run asks.
        limit: the most rows; which they are is as good as chance, and the same every time.

    Raises:
        DataError: nothing is held out, or the rows are not those of the training.
    """
    dataset: Dataset = read_dataset(run, recipe, base)
    rows = list(read_held_out(recipe))
    if not rows:
        why, fix = "every row was learnt", f"train anew with rows held out: {anew(run)} --set data.eval=0.1"
        raise DataError("this run held nothing out", where=str(run.recipe), why=why, fix=fix)
    taken = _first(rows, limit)
    places = {row.place for row in taken}
    examples = tuple(example for example in dataset.held_out if example.place in places)
    notes = [f"{len(taken)} of {len(rows)} held-out rows were drawn"] if len(taken) < len(rows) else []
    return Rows(HELD_OUT, tuple(_questions(taken, renderer, thinking)), examples, tuple(notes))


def rows_of_file(task: Task, recipe: Recipe, renderer: Renderer, thinking: bool, limit: int | None) -> Rows:
    """Reads the rows of a file that a task names.

    Raises:
        DataError: it is not there, or rows of it cannot be read.
    """
    file = task.file
    assert file is not None
    if not file.is_file():
        where, fix = recipe.where("evaluate.tasks"), f"ls {file.parent}"
        raise DataError(f"there is no file {file.name}", where=where, why=f"nothing is at {file}", fix=fix)
    rows = read_rows(file, dict(task.columns) if task.columns else None)
    taken, notes = _first(rows, limit), []
    if len(taken) < len(rows):
        notes.append(f"{len(taken)} of {len(rows)} rows of {file.name} were drawn")
    made = [example for row in taken for example in renderer.examples(row)]
    fitting = tuple(example for example in made if len(example) <= recipe.data.max_length)
    lost = len(made) - len(fitting)
    of_loss = (f"{lost} examples of {file.name} are longer than data.max_length: no loss",) if lost else ()
    return Rows(file.stem, tuple(_questions(taken, renderer, thinking)), fitting, tuple(notes), of_loss)


def sha256_of(items: Iterable[str]) -> str:
    """Identifies a set of items, in their order."""
    return hashlib.sha256("\n".join(items).encode()).hexdigest()


def item_of_example(example: Example) -> str:
    """Identifies an example by its ids and what is learnt of them."""
    return hashlib.sha256(json.dumps([example.ids, [int(each) for each in example.learnt]]).encode()).hexdigest()[:16]


def _first(rows: Sequence[Row], limit: int | None) -> list[Row]:
    """Takes as many rows as are allowed, in their order."""
    if limit is None or limit >= len(rows):
        return list(rows)
    drawn = sorted(range(len(rows)), key=lambda i: drawn_first(bytes.fromhex(rows[i].fingerprint)))[:limit]
    return [rows[i] for i in sorted(drawn)]


def _questions(rows: Iterable[Row], renderer: Renderer, thinking: bool) -> Iterable[Question]:
    """Asks for the last answer of each row that is learnt; a text asks nothing."""
    for row in rows:
        if row.text:
            continue
        messages = renderer.conversation(row)
        added = len(messages) - len(row.messages)
        silent = {i + added for i in row.silent}
        learnt = [
            i
            for i, message in enumerate(messages)
            if message["role"] == "assistant" and i >= row.learn_from + added and i not in silent
        ]
        if not learnt:
            continue
        before, answer = messages[: learnt[-1]], messages[learnt[-1]]
        ids = tuple(renderer.prompt_ids(before, row.tools, thinking))
        calls = tuple(answer.get("tool_calls", ()))
        told = [ids, answer["content"].strip(), [call["function"] for call in calls]]
        item = hashlib.sha256(json.dumps(told, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]
        yield Question(item, row.place, ids, _shown(before), answer["content"].strip(), calls, row.tools)


def _shown(messages: Sequence[dict[str, Any]]) -> str:
    """Writes a conversation for a reader: a single question as it is, several turns by who spoke."""
    said = [message for message in messages if message["role"] != "system"]
    if len(said) == 1:
        return str(said[0]["content"])
    calls = [json.dumps([call["function"] for call in message.get("tool_calls", ())]) for message in said]
    lines = zip(said, calls, strict=True)
    return "\n".join(f"{m['role']}: {m['content']}{call if call != '[]' else ''}" for m, call in lines)
