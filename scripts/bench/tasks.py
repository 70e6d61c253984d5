"""Does one task of the agenda, and writes down what came out."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bench import copies, predicting
from bench.agenda import PROMISE_TOKENS, Task
from bench.limits import find_longest
from bench.parity import compare, learn_afresh
from bench.session import Session, enter, ids_of, step, try_step
from bench.steps import Step, memory, resting_bytes, start_counting, summary, unless_out_of_memory
from bench.weights import clean
from finetune.levers import Levers
from finetune.memory import read_widths

PARITY_SEED = 7


class OutOfTime(Exception):
    """A search is left that would overrun."""


def do(session: Session, task: Task) -> None:
    """Does a task."""
    {"cell": cell, "parity": parity, "copies": profile_copies, "longest": longest}[task.kind](session, task)


def cell(session: Session, task: Task) -> None:
    """Measures memory and speed of a stack at a length."""
    told = _cell(session, task)
    session.results["cells"].append(told)


def _cell(session: Session, task: Task) -> dict[str, Any]:
    levers = session.levers(task.stack, task.tokens)
    told: dict[str, Any] = {
        "stack": task.stack,
        "levers": None if levers is None else asdict(levers),
        "tokens": task.tokens,
        "fits": False,
        "predicted": _predicted(session, levers, task.tokens),
        **dict.fromkeys(("measured", "ratio", "times")),
    }
    if not enter(session, task.stack, task.tokens):
        return told
    clean()
    resting = resting_bytes(session.free_at_start)
    start_counting()
    first = try_step(session, task.tokens)
    if first is None:
        return told
    session.remember(task.stack, task.tokens, first.seconds)
    warm_ups, timed_steps = session.clock.num_steps(first.seconds)
    steps: list[Step] = []
    for _ in range(warm_ups - 1 + timed_steps):
        taken = try_step(session, task.tokens)
        if taken is None:
            return told  # what fits by chance does not fit
        steps.append(taken)
    told["fits"] = True
    told["measured"] = memory(session.free_at_start) | {"static_bytes": resting, "loss": first.loss}
    told["ratio"] = _ratio(told["measured"], told["predicted"])
    told["times"] = _times(session, steps[warm_ups - 1 :], task.tokens)
    session.remember(task.stack, task.tokens, told["times"]["step_seconds"])
    return told


def _predicted(session: Session, levers: Levers | None, tokens: int) -> dict[str, Any] | None:
    """Gives what the plan says; of trl it says nothing."""
    if levers is None:
        return None
    return predicting.as_json(predicting.promise(session.base, session.hardware, levers, tokens))


def _ratio(measured: dict[str, Any], predicted: dict[str, Any] | None) -> dict[str, float] | None:
    """Divides predicted by measured bytes; None without a GPU, and for trl."""
    if predicted is None or measured["allocated_bytes"] is None:
        return None
    return {
        name: predicted[f"{name}_bytes"] / measured[f"{name}_bytes"] for name in ("allocated", "reserved", "static")
    }


def _times(session: Session, steps: list[Step], tokens: int) -> dict[str, Any]:
    told = summary(steps, tokens)
    weights = predicting.weights_in_products(session.base, session.hardware)
    return told | {f"tflops_{n}n": n * weights * told["tokens_per_second"] / 1e12 for n in (4, 6)}


def parity(session: Session, task: Task) -> None:
    """Compares a stack's loss and gradients with those of our plain stack."""
    ids = ids_of(session, task.tokens)
    if task.tokens not in session.learnt:
        truth = _learn(session, "plain", task.tokens)
        if truth is None:
            session.results["skipped"].append({"task": task.name, "why": "the plain stack does not fit"})
            return
        session.learnt[task.tokens] = truth
    told = _learn(session, task.stack, task.tokens)
    if told is None:
        session.results["skipped"].append({"task": task.name, "why": "it does not fit"})
        return
    found = compare(told, session.learnt[task.tokens])
    session.results["parity"].append({"stack": task.stack, "other": "plain", "tokens": ids.shape[1], **found})


def _learn(session: Session, stack: str, tokens: int) -> Any:
    if not enter(session, stack, tokens):
        return None
    active = session.active
    assert active is not None
    ids = ids_of(session, tokens)
    learnt = unless_out_of_memory(lambda: learn_afresh(session.model, active.loss_of, ids, PARITY_SEED))
    step(session, min(tokens, 128))  # gradients exist again, as every other task expects
    return learnt


def profile_copies(session: Session, task: Task) -> None:
    """Watches the copies of one step."""
    levers = session.levers(task.stack, task.tokens)
    assert levers is not None, "trl copies nothing"
    widths = read_widths(session.base.shape)
    e = session.vocabulary.head.element_size()
    sent = copies.bytes_a_step(levers, num_layers=widths.num_layers, hidden=widths.hidden, e=e, tokens=task.tokens)
    told: dict[str, Any] = {
        "stack": task.stack,
        "tokens": task.tokens,
        **{f"{way}_bytes": n for way, n in sent.items()},
    }
    told |= copies.speeds([], sent)
    if session.cuda and enter(session, task.stack, task.tokens):
        events = unless_out_of_memory(lambda: copies.profiled(lambda: step(session, task.tokens)))
        told |= copies.speeds(events or [], sent)
    session.results["copies"].append(told)


def longest(session: Session, task: Task) -> None:
    """Finds the longest context of a stack by running out of memory."""
    levers = session.levers(task.stack, session.step_tokens)
    step_tokens, most = session.step_tokens, session.most_tokens
    guess = session.guess(task.stack)
    told: dict[str, Any] = {
        "stack": task.stack,
        "predicted_tokens": None if levers is None else guess,
        "tokens": None,
        "at_least": 0,
        "most_tokens": most,
        "why": "",
        "probes": [],
    }
    session.results["longest"].append(told)

    def fits(tokens: int) -> bool:
        expected = session.expected_step(task.stack, tokens)
        if expected > session.clock.left():
            raise OutOfTime(f"a step of {tokens:,} tokens takes {expected:.0f} s, more than is left")
        clean()
        taken = try_step(session, tokens)
        told["probes"].append([tokens, taken is not None])
        if taken is None:
            return False
        told["at_least"] = max(told["at_least"], tokens)
        session.remember(task.stack, tokens, taken.seconds)
        return True

    if not enter(session, task.stack, step_tokens):
        told["tokens"] = 0
        return
    try:
        told["tokens"] = find_longest(fits, guess, step=step_tokens, most=most)
    except OutOfTime as error:
        told["why"] = str(error)


def judge_promise(results: dict[str, Any]) -> dict[str, Any]:
    """Says whether the promised context was shown to fit: True, False, or None where nobody tried."""
    tried = [c["fits"] for c in results["cells"] if c["levers"] is not None and c["tokens"] >= PROMISE_TOKENS]
    reached = [n["at_least"] >= PROMISE_TOKENS for n in results["longest"] if n["predicted_tokens"] is not None]
    shown = any(tried) or any(reached)
    return {"tokens": PROMISE_TOKENS, "shown": shown if tried or shown else None}


def constants(results: dict[str, Any]) -> dict[str, Any]:
    """Derives what the plan guesses from what was measured: gaps between blocks, and what is outside of the pool.

    The workspace of cuBLAS, and the context as it was at the start, are added by those who measured them.
    """
    gaps, outside = [], []
    for told in (c["measured"] for c in results["cells"] if c["fits"]):
        if told["allocated_bytes"] is None:
            continue
        coming = told["allocated_bytes"] - told["static_bytes"]
        gaps.append((told["reserved_bytes"] - told["allocated_bytes"]) / coming)
        outside.append(told["taken_bytes"] - told["reserved_bytes"])
    return {"fragmentation": max(gaps, default=None), "grown_outside_pool_bytes": max(outside, default=None)}
