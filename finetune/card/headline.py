"""What to know of a model before anything else: what the tuning did, what became worse, what nobody tested."""

from __future__ import annotations

from typing import Any

from finetune.card.results import LEAST_ROWS, compared_with_base, sides_of, tasks, training_losses
from finetune.card.text import figure, plain
from finetune.provenance import HELD_OUT, Artifact, Facts

TUNED = "tuned"
"""The side of an evaluation that is the model as training left it: an adapter over its base, or weights of its own."""


def headline(facts: Facts, artifact: Artifact) -> str:
    """Says in one sentence what the tuning did, by figures of these very files, or says that they are others'.

    Args:
        facts: of the run.
        artifact: whose card it is.
    """
    if artifact == "adapter":
        return _of_trained(facts) or "What the tuning did was not measured"
    for side in sides_of(facts, artifact):
        if own := _of_side(facts, side):
            return own
    if own := _of_ledger(facts, artifact):
        return own
    trained = _of_trained(facts)
    what = "the weights as trained" if facts.plan.method == "full" else "the adapter"
    return f"{trained} ({what}; these files were not measured)" if trained else "Nothing was measured"


def worse(facts: Facts, artifact: Artifact) -> str:
    """Names the tasks on which a model is worse than its base, and whether that was measured of it as it was trained.

    Args:
        facts: of the run.
        artifact: whose card it is.
    """
    own = sides_of(facts, artifact)
    found = {
        side: ", ".join(plain(t["name"]) for t, pair in compared_with_base(facts, side) if pair["verdict"] == "worse")
        for side in own or [TUNED]
    }
    who = "Worse" if own else "As trained, worse" if facts.plan.method == "full" else "As an adapter, worse"
    names = [
        f"{lost} ({plain(side.rpartition('/')[2])})" if len(own) > 1 else lost for side, lost in found.items() if lost
    ]
    return f"{who} than its base on: {'; '.join(names)}." if names else ""


def _of_trained(facts: Facts) -> str:
    if told := _of_side(facts, TUNED):
        return told
    losses = training_losses(facts)
    return f"Held-out loss: {figure(losses[0])} nats a token before, {figure(losses[1])} after" if losses else ""


def _of_side(facts: Facts, side: str) -> str:
    """Tells the first task that compares a side with the base; nothing if none does."""
    for task, pair in compared_with_base(facts, side):
        before, after = (figure(float(task["scores"][each]["value"])) for each in ("base", side))
        verdict = "no evidence of a difference"
        if pair["verdict"] != "no evidence":
            verdict = f"{plain(pair['verdict'])} than before"
        name, of = plain(task["name"]), "" if side == TUNED else f" ({plain(side.rpartition('/')[2])})"
        return f"{name[:1].upper()}{name[1:]}: {before} before, {after} after{of}, on {task['items']:,} rows: {verdict}"
    return ""


def _of_ledger(facts: Facts, artifact: Artifact) -> str:
    """Tells the losses of the base and of a form of the model, with their weights; nothing if the ledger has none."""
    if facts.ledger is None or (rows := facts.ledger["examples"]["scored"]) < LEAST_ROWS:
        return ""
    measured = [step for step in facts.ledger["steps"] if "loss" in step]
    base, own = (next((step for step in measured if step["name"] == name), None) for name in ("base", artifact))
    if base is None or own is None:
        return ""
    return f"Held-out loss: {_loss(base)} before, {_loss(own)} after, on {rows:,} rows"


def _loss(step: dict[str, Any]) -> str:
    return f"{figure(float(step['loss']['value']))} ({plain(step['weights'])})"


def unmeasured(facts: Facts) -> list[str]:
    """Lists what a reader might take for measured and was not."""
    found, asked = [], tasks(facts)
    if not any(task["set"] == "regression" for task in asked):
        found.append("Whether it forgot what the base could do was not measured.")
    if not any(task["kind"] != "loss" for task in asked):
        found.append("No answer was scored: a loss says how likely the right words are, not whether they are given.")
    others = ", ".join(
        plain(task["name"]) for task in asked if task.get("file", HELD_OUT) != HELD_OUT or "harness" in task
    )
    beside = f"; beside the held-out rows, {others} was asked" if others else ""
    found.append(f"Safety, bias and behaviour outside of the data below were not tested{beside}.")
    return found
