"""`finetune ledger`: the held-out loss of base, tuned model, merged one and each GGUF, and what each keeps of it.

All are scored on the same rows, which are those that training held out, token by token. Each line says by which engine
and on which weights; a line that could not be measured says what it takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from finetune import __version__
from finetune.data import Example
from finetune.errors import DataError
from finetune.ledger import intervals
from finetune.ledger.advice import advice, short
from finetune.ledger.drawing import draw
from finetune.ledger.steps import Step, find_steps
from finetune.merge.order import Order, take
from finetune.merge.prompts import read_dataset
from finetune.model import Score
from finetune.run import Claim, Entry, Run, anew, atomic, claim, locked, manifest, outputs

Say = Callable[[str], None]

MOST_TOKENS = 16_384
"""Of held-out examples that are scored, unless it is said otherwise."""


def ledger(run: Run, most_tokens: int, say: Say) -> dict[str, Any]:
    """Scores every form of a run's model that is there, writes ledger.json and ledger.png, and gives what is in them.

    Args:
        run: that finished.
        most_tokens: of the held-out examples that are scored; one at least is.
        say: takes a line for the user.

    Raises:
        ArtifactError: run, base, or a file that was proven is not what it was.
        DataError: nothing is held out, or the rows are not those of the training.
        ProofFailed: llama.cpp cannot run a file.
        RunLocked: another process works in the run.
    """
    began = time.monotonic()
    with locked(run):
        order = take(run, "bf16")
        examples, of = _held_out(order, most_tokens)
        tokens, learnt = sum(map(len, examples)), sum(sum(example.learnt[1:]) for example in examples)
        say(f"{len(examples)} of {of} held-out examples: {tokens:,} tokens, of which {learnt:,} are scored")
        scored = []
        for step in find_steps(order):  # whose files were compared with their hashes before the first is scored
            scored.append((step, step.score(examples) if step.score else None))
            figure = f"{scored[-1][1].loss:.4f}" if scored[-1][1] else f"not measured: {step.takes}"
            say(f"{step.name} ({step.weights})  {figure}")
        lines = _lines(scored)
        told: dict[str, Any] = {
            "run": run.name,
            "examples": {"scored": len(examples), "of": of, "tokens": tokens, "learnt": learnt},
            "unit": "nats a learnt token",
            "intervals": "95 %, percentile bootstrap over examples, paired",
            "steps": lines,
            "advice": advice(run, lines, len(examples)),
        }
        with atomic.refusal_told(run.ledger, "move what lies in its place, or the folder's permissions"):
            draw(told, run.ledger_plot)
            atomic.write_json(run.ledger, told)
        manifest.add(run.manifest, _entry(order, told, began))
    return told


def _held_out(order: Order, most_tokens: int) -> tuple[list[Example], int]:
    """Gives the held-out examples in their order as far as the tokens go, and how many there are.

    Raises:
        DataError: there are none, or rows or template are not those of the training.
    """
    dataset = read_dataset(order.run, order.recipe, order.base.folder)
    if not dataset.held_out:
        why, fix = "every row was learnt", f"train anew with rows held out: {anew(order.run)} --set data.eval=0.1"
        raise DataError("this run held nothing out", where=str(order.run.recipe), why=why, fix=fix)
    taken: list[Example] = []
    for example in dataset.held_out:
        if taken and sum(map(len, taken)) + len(example) > most_tokens:
            break
        taken.append(example)
    return taken, len(dataset.held_out)


def _lines(scored: list[tuple[Step, Score | None]]) -> list[dict[str, Any]]:
    """Gives what is told of each step: loss, distance from the model as trained, share of the tuning kept."""
    base, tuned = (score for _, score in scored[:2])
    assert base is not None
    assert tuned is not None
    lines = []
    for step, score in scored:
        line: dict[str, Any] = {"name": step.name, "weights": step.weights, "engine": step.engine}
        line |= {"bytes": step.num_bytes, "not_measured": step.takes or None}
        if score is not None:
            share = intervals.kept(score, base, tuned)
            line["loss"] = asdict(intervals.loss(score))
            line["from_trained"] = asdict(intervals.difference(score, tuned))
            line["kept"] = asdict(share) if share else None
        lines.append(line)
    return lines


def _entry(order: Order, told: dict[str, Any], began: float) -> Entry:
    run = order.run
    claims: list[Claim] = []
    for line in told["steps"]:
        of = short(line)
        if "loss" in line:
            claims.append(claim(f"{of}: held-out loss", round(line["loss"]["value"], 4)))
        if line.get("kept") and of not in ("base", *outputs.LEARNT):
            claims.append(claim(f"{of}: share of the tuning's effect that it keeps", round(line["kept"]["value"], 4)))
    return Entry(
        stage="ledger",
        inputs={**order.inputs, "examples": told["examples"]},
        outputs={run.named(file): atomic.sha256(file) for file in (run.ledger, run.ledger_plot)},
        claims=claims,
        versions={"finetune": __version__, **{name: version(name) for name in ("torch", "transformers")}},
        seconds=round(time.monotonic() - began, 1),
        finished=manifest.now(),
    )
