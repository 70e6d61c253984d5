"""`finetune chat`: talk to what was trained, beside its base if asked; to a run, or to a GGUF file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finetune.errors import RecipeError

Write = Callable[[str], None]

Voices = Mapping[str, Callable[[Sequence[dict[str, Any]], Write], str]]
"""Who answers -> asks for the next turn of a conversation, showing the text as it comes. The last one is the tuned."""


def once(voices: Voices, prompt: str, write: Write) -> dict[str, str]:
    """Asks one question; returns the answers by who gave them."""
    return _all(voices, [{"role": "user", "content": prompt}], write)


def converse(voices: Voices, read: Callable[[], str], write: Write) -> None:
    """Talks until the input ends; the tuned model's answers carry the conversation on.

    Raises:
        RecipeError: what was said is not UTF-8.
    """
    messages: list[dict[str, Any]] = []
    while True:
        try:
            said = read().strip()
            said.encode()  # refuses the lone surrogates by which some locales pass on any byte
        except EOFError:
            return
        except UnicodeError as error:
            fix = "iconv -t UTF-8 FILE | finetune chat RUN"
            raise RecipeError("what was said is not UTF-8", where="standard input", why=str(error), fix=fix) from error
        if not said:
            continue
        messages.append({"role": "user", "content": said})
        *_, tuned = _all(voices, messages, write).values()
        messages.append(_as_message(tuned))


def _all(voices: Voices, messages: list[dict[str, Any]], write: Write) -> dict[str, str]:
    answers = {}
    for who, ask in voices.items():
        if len(voices) > 1:
            write(f"[{who}]\n")
        answers[who] = ask(messages, write)
        write("\n")
    return answers


def _as_message(text: str) -> dict[str, Any]:
    """Takes the reasoning out of an answer, so that the template can decide whether to keep it."""
    reasoning, end, content = text.rpartition("</think>")
    message: dict[str, Any] = {"role": "assistant", "content": content.strip()}
    if end:
        message["reasoning_content"] = reasoning.removeprefix("<think>").strip()
    return message
