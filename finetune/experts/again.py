"""Whether a forward pass is done for the first time, or again in backward: then nothing need be sent a second time."""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Literal

Pass = Literal["", "first", "again"]

_now: ContextVar[Pass] = ContextVar("pass", default="")


def current_pass() -> Pass:
    """Tells which pass of an activation checkpoint this is; empty outside of any."""
    return _now.get()


def passes() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Gives the contexts of both passes, for the `context_fn` of `torch.utils.checkpoint.checkpoint`."""
    return _Inside("first"), _Inside("again")


class _Inside(AbstractContextManager[None]):
    """One pass; entered once more where backward goes through a graph twice."""

    def __init__(self, which: Pass) -> None:
        self._which = which

    def __enter__(self) -> None:
        self._before = _now.set(self._which)

    def __exit__(self, *raised: object) -> None:
        _now.reset(self._before)
