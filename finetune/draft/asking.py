"""Asks a teacher about many chunks, some at once; each reply is on the disk before it counts.

Threads ask; the thread that called writes the journal, so that there is one writer and one order.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from threading import Event

from finetune.completions import Busy, Refused, Reply, ask
from finetune.draft.chunks import Chunk, tokens
from finetune.draft.journal import Journal, note_reply
from finetune.draft.prompt import asked_tokens, messages
from finetune.draft.settings import Settings
from finetune.endpoints import Endpoint
from finetune.errors import OutsideError

TRIES = 8
"""For one chunk, waiting 1, 2, 4, … seconds between them: two minutes, in which a server has loaded its model."""

MOST_WAIT_SECONDS = 60.0
"""Between two tries, if the server does not say how long."""

MOST_ASKED_SECONDS = 600.0
"""That a server may ask us to wait; for more the command is better given again."""

LOOK_SECONDS = 0.2
"""Between two looks whether somebody asked to stop."""


@dataclass
class _Manners:
    """What the threads learn of the server, and tell one another."""

    halt: Event = field(default_factory=Event)
    """Set when nobody shall ask any more."""
    as_json: bool = True
    """Whether it is asked for JSON by name; not every server takes that."""
    not_before: float = 0.0
    """Until when the server asked to be left alone, by the monotonic clock."""
    refused: dict[str, str] = field(default_factory=dict)
    """Why it refused a chunk, by the identity of what was asked."""
    trouble: OutsideError | None = None
    """What ends it all, the first that came."""


class _Halted(Exception):
    """Nobody shall ask any more."""


def ask_all(
    who: Endpoint,
    todo: Mapping[str, Chunk],
    settings: Settings,
    journal: Journal,
    parallel: int,
    asked_to_stop: Callable[[], bool],
    tell: Callable[[Reply | None], None],
) -> dict[str, str]:
    """Asks about all chunks, or until somebody asks to stop; replies on their way are paid for and waited for.

    Gives why the server refused a chunk, by its identity, where it did.

    Args:
        who: the teacher.
        todo: chunks by the identity of what is asked about them.
        settings: what is asked.
        journal: takes each reply.
        parallel: chunks that are asked about at once.
        asked_to_stop: is asked now and then, as `tell` is told None.
        tell: is told each reply.

    Raises:
        DoesNotFit: the disk of the journal is full.
        OutsideError: the server does not answer any more, or refused the first chunk already.
    """
    manners, left = _Manners(), iter(todo.items())
    running: dict[Future[Reply], str] = {}
    with ThreadPoolExecutor(parallel, thread_name_prefix="teacher") as pool:
        try:
            while True:
                while not manners.halt.is_set() and len(running) < parallel and (task := next(left, None)):
                    running[pool.submit(_answer, who, task[1], settings, manners)] = task[0]
                if not running:
                    break
                for future in wait(running, LOOK_SECONDS, FIRST_COMPLETED).done:
                    name = running.pop(future)
                    if isinstance(found := _taken(future), Reply):
                        note_reply(journal, name, found)
                        tell(found)
                    elif found:
                        _heed(found, name, who, manners, any(asked in journal.replies for asked in todo))
                if manners.trouble or asked_to_stop():
                    manners.halt.set()
                tell(None)
        finally:
            manners.halt.set()
    if manners.trouble:
        raise manners.trouble
    return manners.refused


def _taken(future: Future[Reply]) -> Reply | Refused | OutsideError | None:
    """Gives the reply or why there is none; None if nobody asked. Any other error is raised, it is a bug."""
    try:
        return future.result()
    except (Refused, OutsideError) as error:
        return error
    except _Halted:
        return None


def _answer(who: Endpoint, chunk: Chunk, settings: Settings, manners: _Manners) -> Reply:
    """Asks about a chunk until it is answered.

    Raises:
        OutsideError: the server will not answer, or was busy too often.
        Refused: it does not take what is asked about this chunk.
        _Halted: somebody asked to stop while we waited.
    """
    asked = messages(chunk, settings)
    for tried in range(TRIES):
        if manners.halt.wait(max(0.0, manners.not_before - time.monotonic())) or manners.halt.is_set():
            raise _Halted
        try:
            reply = _in_some_form(who, asked, manners)
        except Busy as busy:
            if tried == TRIES - 1:
                why, fix = f"{TRIES} times; at last {busy.why}", "the same command goes on where it stopped"
                raise OutsideError("the server does not answer", where=who.url, why=why, fix=fix) from busy
            _pause(who, busy, tried, manners)
            continue
        if reply.counted:
            return reply
        return replace(reply, read_tokens=asked_tokens(chunk, settings), written_tokens=tokens(reply.said))
    raise AssertionError("the last try returns or raises")


def _in_some_form(who: Endpoint, asked: list[dict[str, str]], manners: _Manners) -> Reply:
    """Asks for JSON by name, and without where the server does not take that; what it takes is remembered."""
    if manners.as_json:
        try:
            return ask(who, asked, as_json=True)
        except Refused:
            pass
    reply = ask(who, asked, as_json=False)
    manners.as_json = False
    return reply


def _pause(who: Endpoint, busy: Busy, tried: int, manners: _Manners) -> None:
    """Waits as long as the server says, and lets all others wait too; else twice as long each time, but not in step.

    Raises:
        OutsideError: it wants to be left alone for longer than we wait.
    """
    if busy.wait_seconds is None:
        manners.halt.wait(min(2.0**tried, MOST_WAIT_SECONDS) * random.uniform(0.5, 1.0))
        return
    if busy.wait_seconds > MOST_ASKED_SECONDS:
        why, fix = f"{busy.wait_seconds:,.0f} s; it says {busy.why}", "the same command later"
        raise OutsideError("the server wants to be left alone for long", where=who.url, why=why, fix=fix)
    manners.not_before = max(manners.not_before, time.monotonic() + busy.wait_seconds)


def _heed(trouble: Refused | OutsideError, name: str, who: Endpoint, manners: _Manners, answered: bool) -> None:
    """Notes what went wrong with a chunk.

    A server that answered others may dislike one chunk; one that answered none dislikes how we ask.
    """
    if isinstance(trouble, Refused):
        manners.refused[name] = trouble.why
        if answered:
            return
        where, fix = f"{who.url}/chat/completions  --model {who.model}", "mend --model or --teacher"
        trouble = OutsideError("the server refuses what it is asked", where=where, why=trouble.why, fix=fix)
    manners.trouble = manners.trouble or trouble
