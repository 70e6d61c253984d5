"""What is measured, the most important first, and whether there is time for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bench.stacks import LEVER_SETS, PLANNED, TRL, TRL_LIGER

Kind = Literal["cell", "parity", "copies", "longest"]

PROMISE_TOKENS = 16_384
"""The context that a card of 24 GB is promised to train the 27B with."""

WARM_UPS, STEPS = 3, 10
FEW_WARM_UPS, FEW_STEPS = 1, 3
"""Where ten steps would take longer than a cell may; where even these would, only one is timed."""

PROBES = 5
"""Steps that finding a longest context usually takes from a good guess."""

SAFETY = 1.3
"""A step may take this much longer than steps like it did."""


@dataclass(frozen=True)
class Task:
    """One thing to measure."""

    kind: Kind
    stack: str
    tokens: int
    """Of the one example; 0 where the length is what is looked for."""

    @property
    def name(self) -> str:
        return f"{self.kind}: {self.stack}" + (f", {self.tokens:,} tokens" if self.tokens else "")


def agenda(tokens: Sequence[int], *, compared: int, liger: bool) -> list[Task]:
    """Lists the tasks in the order of their importance.

    Args:
        tokens: context lengths.
        compared: the one at which all stacks are measured.
        liger: whether Liger is installed; it cannot be taken out of a model again, so it comes last.
    """
    longest = max((t for t in tokens if t <= PROMISE_TOKENS), default=min(tokens))
    levers = [name for name in LEVER_SETS if name != "plain"]
    first = [
        Task("cell", PLANNED, longest),
        *(Task("cell", stack, compared) for stack in ("plain", TRL, PLANNED)),
        Task("parity", TRL, compared),
        Task("parity", "all together", compared),
        *(Task("longest", stack, 0) for stack in ("all together", TRL, "plain")),
        *(Task("cell", stack, compared) for stack in reversed(levers)),
        Task("copies", "all together", longest),
        *(Task("parity", stack, compared) for stack in levers if stack.startswith(("head", "halves", "checkpoints"))),
    ]
    sweep = [Task("cell", stack, t) for t in tokens for stack in (PLANNED, TRL, "all together", "plain")]
    limits = [Task("longest", stack, 0) for stack in levers if stack != "all together"]
    rest = [Task("cell", stack, t) for stack in levers for t in tokens]
    last = [Task("cell", TRL_LIGER, compared), Task("longest", TRL_LIGER, 0)] if liger else []
    return [*dict.fromkeys([*first, *limits, *sweep, *rest]), *last]


@dataclass
class Clock:
    """Time that is left, and how much longer than by the roofline steps take here."""

    end: float
    """On the clock that `now` reads."""
    now: Callable[[], float]
    cell_seconds: float
    """About what one cell may take; short steps are repeated more often."""
    slower: dict[str, float] = field(default_factory=dict)
    """Stack -> measured seconds of a step over those of the roofline, the last one measured."""

    def left(self) -> float:
        """Seconds."""
        return self.end - self.now()

    def learn(self, stack: str, measured: float, estimated: float) -> None:
        """Remembers how a stack did."""
        self.slower[stack] = measured / estimated

    def step_seconds(self, stack: str, estimated: float) -> float:
        """Expects a step of a stack: as slow as it was, else as the slowest so far, else twice the roofline."""
        return estimated * self.slower.get(stack, max(self.slower.values(), default=2.0))

    def num_steps(self, step: float) -> tuple[int, int]:
        """Tells how many steps to warm up with and how many to time, by the seconds of one."""
        if (WARM_UPS + STEPS) * step <= self.cell_seconds:
            return WARM_UPS, STEPS
        if (FEW_WARM_UPS + FEW_STEPS) * step <= 2 * self.cell_seconds:
            return FEW_WARM_UPS, FEW_STEPS
        return 1, 1

    def task_seconds(self, task: Task, step: float) -> float:
        """Expects a whole task from the seconds of its step."""
        steps = {"cell": sum(self.num_steps(step)), "parity": 2, "copies": 2, "longest": PROBES}[task.kind]
        return SAFETY * steps * step

    def affords(self, task: Task, step: float, switch_seconds: float) -> bool:
        """Tells whether a task would be done in time.

        Args:
            task: to be done.
            step: seconds of one of its steps.
            switch_seconds: what pulling other levers takes, 0 if they are pulled.
        """
        return self.task_seconds(task, step) + switch_seconds <= self.left()
