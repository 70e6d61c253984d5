"""Renders a conversation to the ids that the model sees, and marks the ones that are learnt.

One rendering for training and serving: the text comes from the base's own serving template. Three ideas:

1. **Text stays text.** Each `<` of the user's data is replaced before the template runs, by half a character that no
   text can hold, and restored after the text was cut; so a control token in the rendered text was written by the
   template and by nobody else; data that spells `<|im_start|>` is encoded as those letters.
2. **Cuts fall on control tokens** (where the tokenizer itself would cut), and where the prompt ends and the answer
   begins (where serving cuts). So the ids are the serving ids.
3. **What was prompted is not learnt.** A learnt turn must begin with exactly the prompt that the template writes when
   it asks for that turn (with its think prefix); what follows, up to and with the end of turn, is learnt.

Where the template renders past turns otherwise than it prompted for them (Qwen3.6 strips their reasoning unless
`preserve_thinking` is set), a conversation becomes one example for each question, each learning its last round only.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from finetune.data.messages import Row
from finetune.data.template import Template
from finetune.data.turns import Message
from finetune.data.vocabulary import Vocabulary
from finetune.errors import ArtifactError, DataError

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
ASSISTANT = f"{TURN_START}assistant\n"

PUT_BACK = "put the base's own chat_template.jinja and tokenizer.json back, from its page on the Hub"

HALF = 0xD800
"""Where the halves of characters begin (UTF-16's surrogates). Alone they are no text, and no row can hold one."""


@dataclass(frozen=True)
class Piece:
    """A stretch of rendered text: a control token of the template, or plain text."""

    text: str
    control: bool
    learnt: bool


@dataclass(frozen=True)
class Example:
    """What the model sees: `ids` and, for each of them, whether it is learnt. Both of shape (tokens,)."""

    ids: list[int]
    learnt: list[bool]
    place: str
    """`file:line` of the row it came from."""
    cut: Sequence[int] = ()
    """Ids that data.too_long: truncate cut off its end."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Renderer:
    """The template, the vocabulary and the three settings that training and serving share."""

    template: Template
    vocabulary: Vocabulary
    system: str | None = None
    preserve_thinking: bool = False
    learn_reasoning: bool = True

    def __post_init__(self) -> None:
        """Checks that template and tokenizer speak of turns in the way that the mask relies on.

        Raises:
            ArtifactError: they do not.
        """
        missing = [token for token in (TURN_START, TURN_END) if token not in self.vocabulary.control]
        if missing or not all(prompt.startswith(ASSISTANT) for prompt in self._prompts.values()):
            why = f"the tokenizer has no token {missing[0]}" if missing else f"no turn begins with {ASSISTANT!r}"
            raise ArtifactError(
                "the chat template is not one of Qwen3.5 or Qwen3.6",
                where="chat_template.jinja",
                why=why,
                fix=PUT_BACK,
            )

    @cached_property
    def control(self) -> re.Pattern[str]:
        """Finds control tokens, the longest that begins at a place."""
        tokens = sorted(self.vocabulary.control, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, tokens)))

    @cached_property
    def _prompts(self) -> dict[bool, str]:
        """What the template writes to ask for a turn, with thinking (True) and without (False)."""
        asked: Sequence[Message] = [{"role": "user", "content": "."}]
        try:
            plain = self.template.render(asked)
            prompts = {on: self.template.render(asked, ask=True, enable_thinking=on) for on in (True, False)}
        except ValueError as error:
            what, where = "the chat template refuses a single question", "chat_template.jinja"
            raise ArtifactError(what, where=where, why=str(error), fix=PUT_BACK) from None
        return {thinking: text.removeprefix(plain) for thinking, text in prompts.items()}

    def examples(self, row: Row) -> list[Example]:
        """Renders a row: one example, or one for each question where past turns are not kept as prompted."""
        messages = self.conversation(row)
        return [
            self._example(messages[:end], row, learn_from)
            for end, learn_from in self._rounds(messages, row.learn_from + len(messages) - len(row.messages))
        ]

    def conversation(self, row: Row) -> list[Message]:
        """Gives the row's messages as they are rendered: system prompt added, reasoning kept or left out."""
        messages = [dict(message) for message in row.messages]
        if not self.learn_reasoning:
            for message in messages:
                message.pop("reasoning_content", None)
        if self.system and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self.system})
        return messages

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], thinking: bool) -> list[int]:
        """Gives the ids that ask the model for the next turn; used by chat and by every comparison."""
        hidden, restore = _hide(messages, tools, self.vocabulary.control_starts)
        text = self.template.render(
            hidden[0],
            hidden[1],
            ask=True,
            preserve_thinking=self.preserve_thinking,
            enable_thinking=thinking,
        )
        pieces = self._cut(text, 0, len(text), False)
        return [i for ids in self.vocabulary.encode([(restore(p.text), p.control) for p in pieces]) for i in ids]

    def pieces(self, messages: Sequence[Message], row: Row, learn_from: int = 0) -> list[Piece]:
        """Cuts a rendered conversation into control tokens and text, each learnt or not.

        Raises:
            DataError: the template refuses the conversation, or renders a learnt turn otherwise than it asks for it.
        """
        hidden, restore = _hide(messages, row.tools, self.vocabulary.control_starts)
        try:
            text = self.template.render(hidden[0], hidden[1], preserve_thinking=self.preserve_thinking)
        except ValueError as error:
            raise DataError("the chat template refuses the row", where=row.place, why=str(error)) from None
        turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        pieces: list[Piece] = []
        done, at = 0, 0
        for turn in turns:
            start = text.index(ASSISTANT, at)
            at = text.index(TURN_END, start) + len(TURN_END)
            if turn < learn_from:
                continue
            prompt = self._prompts["reasoning_content" in messages[turn]]
            if not text.startswith(prompt, start):
                raise DataError(
                    "the chat template renders a turn otherwise than it asks for it",
                    where=f"{row.place}  messages[{turn}]",
                    why=f"it asks with {prompt!r} and renders {text[start : start + len(prompt)]!r}",
                    fix="data.preserve_thinking: true",
                )
            answer = start + len(prompt)
            pieces += self._cut(text, done, answer, False) + self._cut(text, answer, at, True)
            done = at
        pieces += self._cut(text, done, len(text), False)
        return [Piece(restore(p.text), p.control, p.learnt) for p in pieces]

    def _example(self, messages: Sequence[Message], row: Row, learn_from: int) -> Example:
        pieces = self.pieces(messages, row, learn_from)
        encoded = self.vocabulary.encode([(piece.text, piece.control) for piece in pieces])
        ids = [i for part in encoded for i in part]
        learnt = [piece.learnt for piece, part in zip(pieces, encoded, strict=True) for _ in part]
        return Example(ids, learnt, row.place)

    def _rounds(self, messages: Sequence[Message], learn_from: int) -> list[tuple[int, int]]:
        """Gives (end, first learnt message) of each example that a conversation becomes.

        With every past turn kept as it was prompted there is one. Otherwise each question (a user message) starts a
        round of its own, and only the last round of an example is rendered as it was prompted.
        """
        whole = self.preserve_thinking or self._prompts[True] == self._prompts[False]
        return [(len(messages), learn_from)] if whole else rounds(messages, learn_from)

    def _cut(self, text: str, start: int, end: int, learnt: bool) -> list[Piece]:
        """Cuts text[start:end] at the control tokens."""
        pieces: list[Piece] = []
        for match in self.control.finditer(text, start, end):
            if match.start() > start:
                pieces.append(Piece(text[start : match.start()], False, learnt))
            pieces.append(Piece(match.group(), True, learnt))
            start = match.end()
        if end > start:
            pieces.append(Piece(text[start:end], False, learnt))
        return pieces


def rounds(messages: Sequence[Message], learn_from: int) -> list[tuple[int, int]]:
    """Gives (end, first learnt message) of each question's round, if any of it may be learnt."""
    asked = [i for i, m in enumerate(messages) if m["role"] == "user"] + [len(messages)]
    return [(end, max(start, learn_from)) for start, end in itertools.pairwise(asked) if end > learn_from]


def _hide(messages: Sequence[Message], tools: Sequence[dict[str, Any]], starts: str) -> tuple[Any, Any]:
    """Replaces, in every string of the data, the characters that control tokens start with.

    Returns:
        The data with half characters instead, and the function that puts the real ones back into a text.
    """
    hide = {ord(start): chr(HALF + i) for i, start in enumerate(starts)}
    show = {ord(half): chr(start) for start, half in hide.items()}

    def replace(value: Any) -> Any:
        if isinstance(value, str):
            return value.translate(hide)
        if isinstance(value, list | tuple):
            return [replace(inner) for inner in value]
        if isinstance(value, dict):
            return {replace(key): replace(inner) for key, inner in value.items()}
        return value

    return replace([messages, tools]), lambda text: text.translate(show)
