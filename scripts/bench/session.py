"""A run of the benchmark: one model, the stack that it is under now, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench import predicting, stacks
from bench.agenda import Clock, Task
from bench.bases import Base
from bench.kernels import Kernels
from bench.stacks import LEVER_SETS, PLANNED, TRL, TRL_LIGER, Loss
from bench.steps import Step, draw_ids, make_optimizer, take_step, unless_out_of_memory
from bench.weights import Vocabulary, clean, pull_levers, trained_of
from finetune.cards import Card
from finetune.hardware import Hardware
from finetune.levers import Levers
from finetune.model import compute_device
from finetune.plan import Plan
from finetune.train.assembly import OPTIMIZERS

SETTLING_TOKENS = 128
"""Of the step that fills the optimizer's states and compiles what is compiled at first use."""


@dataclass
class Active:
    """The stack that the model is under."""

    name: str
    levers: Levers | None
    """None for trl, which has none."""
    loss_of: Loss
    optimizer: torch.optim.Optimizer
    undo: ExitStack


@dataclass
class Session:
    """Everything that a task needs."""

    base: Base
    plan: Plan
    model: Any
    vocabulary: Vocabulary
    hardware: Hardware
    """The card that is emulated."""
    card: Card | None
    """The one that computes."""
    kernels: Kernels
    clock: Clock
    free_at_start: int | None
    """Bytes; None without a GPU."""
    most_tokens: int
    """Beyond which no longest context is looked for."""
    step_tokens: int
    """To which a longest context is found."""
    folder: Path
    results: dict[str, Any]
    active: Active | None = None
    switch_seconds: float = 0.0
    """What a change of stacks takes, the last ones counting most: the first compiles what the others find compiled."""
    learnt: dict[int, Any] = field(default_factory=dict)
    """Tokens -> gradients of the plain stack."""

    @property
    def cuda(self) -> bool:
        return self.plan.device == "cuda"

    def levers(self, stack: str, tokens: int) -> Levers | None:
        """Gives the levers of a stack at a length; trl has none."""
        if stack in (TRL, TRL_LIGER):
            return None
        if stack == PLANNED:
            return predicting.levers_of(predicting.plan_of(self.base, self.hardware, tokens).choices)
        return LEVER_SETS[stack]

    def length_of(self, task: Task) -> int:
        """Gives the tokens of a task's steps; where a longest context is looked for, those of the first guess."""
        return task.tokens or self.guess(task.stack)

    def guess(self, stack: str) -> int:
        """Gives the longest context that the plan says fits under a stack's levers; for trl that of the plain stack."""
        levers = self.levers(stack, self.step_tokens) or Levers()
        step, most = self.step_tokens, self.most_tokens
        return predicting.longest(self.base, self.hardware, levers, step=step, most=most) or step

    def switch_seconds_to(self, stack: str) -> float:
        """Expects the seconds of a change to a stack."""
        return 0.0 if self.active is not None and self.active.name == stack else self.switch_seconds

    def expected_step(self, stack: str, tokens: int) -> float:
        """Expects the seconds of a step; trl's are those of the plain stack until one was measured."""
        levers = self.levers(stack, tokens) or Levers()
        estimated = predicting.seconds(self.base, self.hardware, self.card, levers, tokens)
        return self.clock.step_seconds(stack, estimated)

    def remember(self, stack: str, tokens: int, measured: float) -> None:
        """Corrects what is expected of a stack."""
        levers = self.levers(stack, tokens) or Levers()
        self.clock.learn(stack, measured, predicting.seconds(self.base, self.hardware, self.card, levers, tokens))


def leave(session: Session) -> None:
    """Takes the stack off the model."""
    if session.active is not None:
        session.active.undo.close()
        session.active = None
    for parameter in trained_of(session.model).values():
        parameter.grad = None
    clean()


def enter(session: Session, stack: str, tokens: int) -> bool:
    """Puts the model under a stack, with an optimizer whose states are filled and gradients that exist.

    Returns:
        False where even this does not fit.
    """
    levers = session.levers(stack, tokens)
    if session.active is not None and (session.active.levers, session.active.name == stack) == (levers, True):
        return True
    started = time.perf_counter()
    leave(session)
    entered = unless_out_of_memory(lambda: _enter(session, stack, levers))
    if entered is None:
        leave(session)
        return False
    session.switch_seconds = (session.switch_seconds + time.perf_counter() - started) / 2
    return True


def _enter(session: Session, stack: str, levers: Levers | None) -> Active:
    model = session.model
    pull_levers(model, session.plan, levers or Levers(), session.vocabulary)
    with ExitStack() as undo:
        if levers is None:
            if stack == TRL_LIGER:
                stacks.use_liger(model)
            loss_of = undo.enter_context(stacks.plain_trl(model, session.plan))
            optim = None  # trl leaves it to transformers
        else:
            loss_of, optim = stacks.our_loss(model, session.plan), OPTIMIZERS[levers.optimizer]
        optimizer = make_optimizer(model, optim, cuda=session.cuda)
        session.active = Active(stack, levers, loss_of, optimizer, undo.pop_all())
    step(session, SETTLING_TOKENS)
    return session.active


def ids_of(session: Session, tokens: int) -> torch.Tensor:
    """Draws the example that every stack gets at a length."""
    return draw_ids(tokens, len(session.vocabulary.head), compute_device(session.model))


def step(session: Session, tokens: int) -> Step:
    """Takes a step under the stack that is active."""
    assert session.active is not None, "a stack is entered before it steps"
    parameters = list(trained_of(session.model).values())
    return take_step(session.active.loss_of, ids_of(session, tokens), parameters, session.active.optimizer)


def try_step(session: Session, tokens: int) -> Step | None:
    """Takes a step, or tells by None that it does not fit; what backward left half-done is wiped out."""
    taken = unless_out_of_memory(lambda: step(session, tokens))
    if taken is None:
        assert session.active is not None
        session.active.optimizer.zero_grad(set_to_none=False)
    return taken


@contextmanager
def timed(told: dict[str, Any], name: str) -> Iterator[None]:
    """Writes down how long something took."""
    started = time.perf_counter()
    yield
    told[name] = time.perf_counter() - started
