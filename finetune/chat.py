"""`finetune chat`: talk to what was trained, beside its base if asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune.errors import RecipeError
from finetune.generate import Tuned, answer, open_tuned
from finetune.run import Run

Write = Callable[[str], None]


def once(
    run: Run,
    prompt: str,
    write: Write,
    *,
    base: bool,
    temperature: float | None,
    max_tokens: int,
    cache: Path | None = None,
) -> dict[str, str]:
    """Asks one question; returns the answers by who gave them."""
    tuned = open_tuned(run, cache)
    return _both(tuned, [{"role": "user", "content": prompt}], write, base, temperature, max_tokens)


def converse(
    run: Run,
    read: Callable[[], str],
    write: Write,
    *,
    base: bool,
    temperature: float | None,
    max_tokens: int,
    cache: Path | None = None,
) -> None:
    """Talks until the input ends; the tuned model's answers carry the conversation on.

    Raises:
        RecipeError: what was said is not UTF-8.
    """
    tuned = open_tuned(run, cache)
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
        answers = _both(tuned, messages, write, base, temperature, max_tokens)
        messages.append(_as_message(answers["tuned"]))


def _both(
    tuned: Tuned, messages: list[dict[str, Any]], write: Write, base: bool, temperature: float | None, max_tokens: int
) -> dict[str, str]:
    if base and not tuned.adapter:
        raise RecipeError("method full has no base beside it", why="every weight was trained", fix="leave out --base")
    answers = {}
    for who in ("base", "tuned") if base else ("tuned",):
        if base:
            write(f"[{who}]\n")
        answers[who] = answer(
            tuned,
            messages,
            as_base=who == "base",
            temperature=temperature,
            max_new_tokens=max_tokens,
            show=write,
        )
        write("\n")
    return answers


def _as_message(text: str) -> dict[str, Any]:
    """Takes the reasoning out of an answer, so that the template can decide whether to keep it."""
    reasoning, end, content = text.rpartition("</think>")
    message: dict[str, Any] = {"role": "assistant", "content": content.strip()}
    if end:
        message["reasoning_content"] = reasoning.removeprefix("<think>").strip()
    return message
