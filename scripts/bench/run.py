"""Runs the whole benchmark: the card, the model, the agenda, and the results after every task."""

from __future__ import annotations

import argparse
import math
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench import ballast, bases, predicting, results
from bench.agenda import Clock, Task, agenda
from bench.kernels import choose
from bench.report import write_report
from bench.session import SETTLING_TOKENS, Session, enter, leave, step, timed
from bench.stacks import LEVER_SETS
from bench.tasks import constants, do, judge_promise
from bench.weights import make_model, redraw_adapters
from finetune.cards import card_named
from finetune.hardware import wished
from finetune.memory import read_widths
from finetune.model import add_adapter
from finetune.plan import Plan

BASE = "Qwen/Qwen3.6-27B"

SEED = 0

TOKENS = (1024, 2048, 4096, 8192, 16_384, 24_576, 32_768)
PICO_TOKENS = (64, 128)
STEP_TOKENS, PICO_STEP_TOKENS = 256, 64
MOST_TOKENS, PICO_MOST_TOKENS = 65_536, 192

CELL_SECONDS, PICO_CELL_SECONDS = 20.0, 1.0

SWITCH_SECONDS = 10.0
"""What pulling other levers is expected to take before it was done once."""

RESERVED_SECONDS = 5.0
"""For the table and the picture."""

LOSS_NEAR = 0.2
"""Nats between the first loss and that of guessing: logits of deviation 0.1 add 0.005, adapters next to nothing."""

FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, ImportError)
"""What a package or a driver of another version may raise: it is told, counts as failed, and the rest is measured."""


def run(arguments: argparse.Namespace, command: list[str], started: float, import_seconds: float) -> bool:
    """Measures until the agenda or the time is over; tells whether nothing failed.

    Args:
        arguments: of the command line, as bench_gpu.py reads it.
        command: as it was typed.
        started: on `time.monotonic`.
        import_seconds: what importing the libraries took.
    """
    told = results.begun(command)
    told["first_step"]["import_seconds"] = import_seconds
    session, drop = prepare(arguments, told, started)
    try:
        work_off(session, _tasks(session, arguments), print)
        told["complete"] = True
    finally:
        finish(session, started)
        drop()
    write_report(arguments.out)
    return not told["failed"]


def prepare(arguments: argparse.Namespace, told: dict[str, Any], started: float) -> tuple[Session, Callable[[], None]]:
    """Makes the card, the kernels and the model; gives also what makes the card whole again."""
    first = told["first_step"]
    with timed(first, "cuda_seconds"):
        free, weight = _make_card(arguments, told)
    cuda = arguments.device == "cuda"
    with timed(first, "kernels_seconds"):
        kernels = choose(arguments.device, torch.cuda.get_device_capability() if cuda else None)
    told["kernels"] = asdict(kernels)
    base = _base(arguments)
    hardware = kernels.on(wished(arguments.card if cuda else "cpu"))
    plan = predicting.plan_of(base, hardware, PICO_TOKENS[0])
    with timed(first, "weights_seconds"):
        model, vocabulary = make_model(base, plan, SEED)
    with timed(first, "adapter_seconds"):
        model = add_adapter(model, plan, dropout=0.0, seed=SEED)
        redraw_adapters(model, SEED)
    told["base"] = _told_of(base, plan, len(vocabulary.head))
    session = Session(
        base=base,
        plan=plan,
        model=model,
        vocabulary=vocabulary,
        hardware=hardware,
        card=card_named(torch.cuda.get_device_name(), told["card"]["total_bytes"]) if cuda else None,
        kernels=kernels,
        clock=_clock(arguments, started),
        free_at_start=free,
        most_tokens=PICO_MOST_TOKENS if arguments.pico else MOST_TOKENS,
        step_tokens=PICO_STEP_TOKENS if arguments.pico else STEP_TOKENS,
        folder=arguments.out,
        results=told,
        switch_seconds=SWITCH_SECONDS if cuda else 0.0,
    )
    return session, weight


def _make_card(arguments: argparse.Namespace, told: dict[str, Any]) -> tuple[int | None, Callable[[], None]]:
    """Starts CUDA and makes the GPU smaller; tells the bytes that are free then, None without a GPU."""
    told["card"] = {"name": arguments.card, "not_emulated": list(ballast.NOT_EMULATED)}
    if arguments.device == "cpu":
        return None, lambda: None
    weight, wanted = ballast.on_cuda(), ballast.free_bytes_of(arguments.card)
    _, total = torch.cuda.mem_get_info()
    told["conditions"] |= {
        "gpu": torch.cuda.get_device_name(),
        "compute_capability": torch.cuda.get_device_capability(),
        "cuda": torch.version.cuda,
    }
    before = ballast.free_now()
    weight.load(ballast.free_now, wanted)
    free = ballast.free_now()
    told["card"] |= {
        "total_bytes": total,
        "taken_by_context_bytes": total - before,
        "wanted_free_bytes": wanted,
        "ballast_bytes": weight.num_bytes,
        "free_bytes": free,
    }
    told["constants"]["workspace_bytes"] = _workspace_bytes()
    return free, weight.drop


def _workspace_bytes() -> int:
    """Measures what cuBLAS asks of PyTorch's pool at its first product, and keeps."""
    factor = torch.ones(64, 64, dtype=torch.bfloat16, device="cuda")
    before = torch.cuda.memory_allocated()
    product = factor @ factor
    torch.cuda.synchronize()
    return int(torch.cuda.memory_allocated() - before - product.untyped_storage().nbytes())


def _base(arguments: argparse.Namespace) -> bases.Base:
    folder: Path = arguments.out / "base"
    if arguments.pico:
        return bases.pico(folder, moe=arguments.pico == "moe")
    return bases.published(BASE, folder, arguments.layers)


def _clock(arguments: argparse.Namespace, started: float) -> Clock:
    cell_seconds = PICO_CELL_SECONDS if arguments.pico else CELL_SECONDS
    return Clock(started + 60 * arguments.minutes - RESERVED_SECONDS, time.monotonic, cell_seconds)


def _told_of(base: bases.Base, plan: Plan, vocabulary: int) -> dict[str, Any]:
    return {
        "name": base.name,
        "quantisation": plan.quantisation,
        "dtype": plan.dtype,
        "rank": plan.rank,
        "num_layers": read_widths(base.shape).num_layers,
        "total_parameters": plan.total_parameters,
        "trainable_parameters": plan.trainable_parameters,
        "guessing_loss": math.log(vocabulary),
    }


def _tasks(session: Session, arguments: argparse.Namespace) -> list[Task]:
    tokens = arguments.tokens or (PICO_TOKENS if arguments.pico else TOKENS)
    liger = session.cuda and "liger-kernel" in session.results["conditions"]["versions"]
    plain = predicting.longest(session.base, session.hardware, LEVER_SETS["plain"], step=min(tokens), most=max(tokens))
    compared = max((t for t in tokens if t <= plain), default=min(tokens))
    return agenda(tokens, compared=compared, liger=liger)


def work_off(session: Session, tasks: list[Task], say: Callable[[str], None]) -> None:
    """Does every task that there is time for, and writes the results after each."""
    first = session.results["first_step"]
    for task in tasks:
        expected = session.expected_step(task.stack, session.length_of(task))
        switch = session.switch_seconds_to(task.stack)
        if not session.clock.affords(task, expected, switch):
            needed, left = session.clock.task_seconds(task, expected) + switch, max(0.0, session.clock.left())
            why = f"it takes about {needed:.0f} s, {left:.0f} are left"
            session.results["skipped"].append({"task": task.name, "why": why})
            say(f"skipped  {task.name}: {why}")
            continue
        say(f"{session.clock.left():5.0f} s left  {task.name}")
        try:
            if "first_step_seconds" not in first:
                _time_first_steps(session, task)
            do(session, task)
        except FAILURES as error:
            session.results["failed"].append({"task": task.name, "why": f"{type(error).__name__}: {error}"[:500]})
            say(traceback.format_exc())
            leave(session)
        _derive(session)
        results.save(session.results, session.folder)


def _time_first_steps(session: Session, task: Task) -> None:
    """Times the first step of all, in which kernels are compiled and tuned, and one like it after."""
    first = session.results["first_step"]
    with timed(first, "first_step_seconds"):
        entered = enter(session, task.stack, task.tokens)
    if entered:
        second = step(session, SETTLING_TOKENS)
        first |= {"second_step_seconds": second.seconds, "loss": second.loss}
        guessing = session.results["base"]["guessing_loss"]
        if abs(second.loss - guessing) > LOSS_NEAR:
            raise ValueError(
                f"the first loss is {second.loss:.3f} and that of guessing {guessing:.3f}: the wiring is off"
            )


def _derive(session: Session) -> None:
    told = session.results
    told["constants"] |= constants(told)
    told["promise"] = judge_promise(told)


def finish(session: Session, started: float) -> None:
    """Writes what there is."""
    _derive(session)
    session.results["seconds"] = time.monotonic() - started
    results.save(session.results, session.folder)
