"""The order in which roles can follow one another in a chat, and each call's answer after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune.data.wrong import WrongField


def check_order(messages: Sequence[dict[str, Any]], fields: Sequence[str]) -> None:
    """Checks the order of normalised messages.

    Args:
        messages: the conversation.
        fields: what to call each of them in an error.

    Raises:
        WrongField: naming the first message that stands where it cannot.
    """
    before, waiting = "", list[Any]()
    for message, field in zip(messages, fields, strict=True):
        _check_turn(message["role"], before, f"{field}.role")
        waiting = _check_calls(message, waiting, field)
        before = message["role"]
    if before != "assistant":
        what, why = f"the conversation ends with the {before}", "only the assistant's words are learnt"
        raise WrongField(f"{fields[-1]}.role", what, why, "add the assistant's answer, or remove the last message")


def _check_turn(role: str, before: str, place: str) -> None:
    """Checks a role against the one before it; `before` is empty for the first."""
    if role == "system" and before:
        what, why = "the system message is not the first", "the chat template reads it at the front only"
        raise WrongField(place, what, why, "move it to the front, or join it with the first")
    if role == before and role != "tool":
        what, why = f"two {role} messages in a row", "each side waits for the other"
        raise WrongField(place, what, why, "join them into one message")
    if role == "assistant" and before in ("", "system"):
        what, why = "the assistant speaks first", "there is no question to answer"
        raise WrongField(place, what, why, 'begin with {"role": "user", "content": "..."}')


def _check_calls(message: dict[str, Any], waiting: list[Any], field: str) -> list[Any]:
    """Checks that calls are answered, each in its turn; returns the ids (or None) of calls still unanswered."""
    if message["role"] != "tool":
        if waiting:
            what = f"{len(waiting)} tool {'call was' if len(waiting) == 1 else 'calls were'} not answered"
            why = f"the {message['role']} goes on without the answer"
            raise WrongField(f"{field}.role", what, why, "put a tool message for each call before it")
        return [call.get("id") for call in message.get("tool_calls", ())]
    if not waiting:
        what, why = "a tool answers a call that nobody made", "it must follow an assistant's tool_calls"
        raise WrongField(f"{field}.role", what, why, "put tool_calls on the assistant's message before it")
    given, expected = message.get("tool_call_id"), waiting[0]
    if given and expected and given != expected:
        late = given in waiting
        what = "tool answers stand in another order than their calls" if late else f"no open call has the id {given}"
        why = "the chat template drops ids, so the order alone tells which answer is whose"
        raise WrongField(f"{field}.tool_call_id", what, why, f'the answer to "{expected}" comes here')
    return waiting[1:]
