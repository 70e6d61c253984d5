"""Whether a forward pass is done for the first time, or again in backward: then nothing need be sent a second time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Literal

Pass = Literal["", "first", "again"]

_now: ContextVar[Pass] = ContextVar("pass", default="")


def current_pass() -> Pass:
    """Tells which pass of an activation checkpoint this is; empty outside of any."""
    return _now.get()


def passes() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Gives the contexts of both passes, for the `context_fn` of `torch.utils.checkpoint.checkpoint`."""
    return _inside("first"), _inside("again")


@contextmanager
def _inside(which: Pass) -> Iterator[None]:
    before = _now.set(which)
    try:
        yield
    finally:
        _now.reset(before)
