"""Chats as others write them: OpenAI's form, ShareGPT's, LLaMA-Factory's, and the two sides of a preference."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from finetune.data.dialects import ROLE_WORDS
from finetune.data.files import LeftOut
from finetune.data.shapes.talk import Talk
from finetune.data.strict_json import WrongJson, kind, read_json
from finetune.data.turns import Turn
from finetune.data.wrong import WrongField

SPEAKERS = re.compile(r"(?:^|\n\n)(Human|Assistant):\s?")
"""How Anthropic's hh-rlhf marks who speaks, in one text. Source: its README."""


LINES = re.compile(
    r"^(user|human|customer|assistant|bot|ai|gpt|model|system|tool|function):\s?", re.IGNORECASE | re.MULTILINE
)
"""How a chat is written down line by line."""


def turns_of(value: Any, field: str, speaker: str = "") -> tuple[Turn, ...]:
    """Lists the turns of a column: a list of messages or, where the speaker is known, a text.

    Raises:
        WrongField: it is neither.
    """
    if speaker and isinstance(value, str):
        return (Turn({"role": speaker, "content": value}, field, field),)
    if isinstance(value, Mapping) and speaker:
        value = [value]
    if not speaker and isinstance(value, str) and value.lstrip().startswith("["):
        value = from_text(value, field)  # as tables hold them
    if not isinstance(value, list) or not value:
        what = f"{field} is {'an empty list' if value == [] else kind(value)}"
        why = f"it must be {'text, or ' if speaker else ''}a list of messages"
        both = f'"{field}": [{{"role": "user", "content": "..."}}, {{"role": "assistant", "content": "..."}}]'
        raise WrongField(field, what, why, f'"{field}": "..."' if speaker else both)
    return tuple(_turn(message, f"{field}[{i}]") for i, message in enumerate(value))


UNWANTED = "labelled false: an answer that is not wanted"


def unwanted(label: Any) -> bool:
    """Tells whether a KTO label, true or false, says that the answer is not wanted; tables write it as text."""
    return label is False or (isinstance(label, str) and label.strip().lower() == "false")


def messages(value: Mapping[str, Any]) -> Talk | LeftOut:
    """OpenAI's form, with the label of KTO where there is one."""
    if pair := [key for key in ("prompt", "completion") if key in value]:
        what = f"the row has messages and a {pair[0]}"
        raise WrongField("messages", what, "one of them would be ignored", "keep one")
    if unwanted(value.get("label")):
        return LeftOut(UNWANTED)
    read = {"messages", "tools", *(["label"] if value.get("label") is True else [])}
    turns = turns_of(value["messages"], "messages")
    first = value["messages"][0] if isinstance(value["messages"], list) else None
    shape = "ShareGPT" if isinstance(first, Mapping) and "from" in first else "messages"
    return Talk(shape, turns, tools=value.get("tools"), read=frozenset(read))


def sharegpt(value: Mapping[str, Any]) -> Talk:
    """ShareGPT's form, whose system prompt may stand in a column."""
    turns = _with_system(value, turns_of(value["conversations"], "conversations"))
    return Talk("ShareGPT", turns, tools=value.get("tools"), read=frozenset({"conversations", "system", "tools"}))


def preference(value: Mapping[str, Any]) -> Talk:
    """A pair of answers, of which the chosen one is learnt: trl's form, LLaMA-Factory's, or hh-rlhf's.

    Raises:
        WrongField: the chosen side is neither a text nor messages.
    """
    field = "chosen_messages" if "chosen_messages" in value else "chosen"
    chosen, rejected = value[field], value.get(field.replace("chosen", "rejected"))
    asked = next((key for key in ("prompt", "question", "conversations") if key in value), None)
    read = frozenset({field, field.replace("chosen", "rejected"), "system", "tools", *filter(None, [asked])})
    tools = value.get("tools")
    if asked:
        before = turns_of(value[asked], asked, "user")
        after = turns_of(chosen, field, "assistant")
        if isinstance(chosen, list) and len(chosen) > len(before) and chosen[: len(before)] == value[asked]:
            after = after[len(before) :]
        return Talk("preference", _with_system(value, before + after), _spoken(value, before), tools, read=read)
    if isinstance(chosen, str):
        turns = transcript(chosen, field)
        return Talk("preference (hh-rlhf)", turns, _differing(turns, transcript(rejected, field)), read=read)
    turns = turns_of(chosen, field)
    learn_from = _differing(turns, turns_of(rejected, field.replace("chosen", "rejected")))
    before = _with_system(value, ())
    return Talk("preference", (*before, *turns), len(before) + learn_from, tools, read=read)


def from_text(value: str, field: str) -> Any:
    """Reads JSON that stands in a text.

    Raises:
        WrongField: it is not JSON.
    """
    try:
        return read_json(value)
    except WrongJson as error:
        raise WrongField(field, f"{field} is text that is not JSON", error.why, error.fix) from None


def is_transcript(value: Any) -> bool:
    """Tells whether a text is a chat written down line by line, as `user: …` and `assistant: …`."""
    if not isinstance(value, str):
        return False
    spoken = [ROLE_WORDS.get(word.lower(), word.lower()) for word in LINES.findall(value)]
    return len(spoken) > 1 and spoken[0] in ("user", "system") and "assistant" in spoken


def lines_of(text: str, field: str) -> tuple[Turn, ...]:
    """Cuts a chat that is written down line by line into turns.

    Raises:
        WrongField: a tool answers in it, and what it was asked was not written down.
    """
    parts = LINES.split(text)
    words = [ROLE_WORDS.get(who.lower(), who.lower()) for who in parts[1::2]]
    if "tool" in words:
        why, fix = "such a text does not hold the calls", "take the chats as messages, with their tool_calls"
        raise WrongField(field, "a tool answers, and nobody wrote down what it was asked", why, fix)
    spoken = zip(words, parts[2::2], strict=True)
    return tuple(Turn({"role": role, "content": said.strip()}, field, field) for role, said in spoken)


def transcript(text: Any, field: str) -> tuple[Turn, ...]:
    """Cuts a text in which `Human:` and `Assistant:` begin paragraphs into turns; the last is the one to learn.

    Raises:
        WrongField: nobody speaks in it.
    """
    parts = SPEAKERS.split(text) if isinstance(text, str) else []
    if len(parts) < 3 or parts[0].strip():
        why, fix = "no paragraph begins with Human: or Assistant:", '"prompt": "...", "chosen": "..."'
        raise WrongField(field, "the text does not say who speaks", why, fix)
    spoken = zip(parts[1::2], parts[2::2], strict=True)
    words = [("user" if who == "Human" else "assistant", said.strip()) for who, said in spoken]
    return tuple(Turn({"role": role, "content": said}, field, field) for role, said in words)


def _differing(chosen: tuple[Turn, ...], rejected: tuple[Turn, ...]) -> int:
    """Counts the turns that both sides share; what follows is the answer. Sides that share none differ in the last."""
    pairs = zip(chosen, rejected, strict=False)
    shared = next((i for i, (a, b) in enumerate(pairs) if a.value != b.value), min(len(chosen), len(rejected)))
    return shared if 0 < shared < len(chosen) else len(chosen) - 1


def _spoken(value: Mapping[str, Any], before: tuple[Turn, ...]) -> int:
    """Counts the turns that are prompt."""
    return len(_with_system(value, before))


def _with_system(value: Mapping[str, Any], turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Puts the system prompt of a column before the turns."""
    told = value.get("system")
    if told in (None, [], {}) or (isinstance(told, str) and not told.strip()):
        return turns
    return (Turn({"role": "system", "content": told}, "system", "system"), *turns)


def _turn(message: Any, field: str) -> Turn:
    """Brings a message of another dialect to OpenAI's form; what is no message is told later."""
    if not isinstance(message, Mapping):
        return Turn(message, field, f"{field}.content")
    if "role" not in message and "from" in message:
        return _sharegpt_turn(message, field)
    if isinstance(message.get("content"), list):
        message = {**message, **_parts(message["content"], field)}
    weight = message.get("weight", message.get("loss_weight"))
    if weight not in (None, 0, 1):
        why, fix = "a message is learnt or it is not: 1 or 0", '"weight": 1'
        raise WrongField(f"{field}.weight", f"the weight {weight!r} is not known", why, fix)
    told = {key: inner for key, inner in message.items() if key not in ("weight", "loss_weight")}
    return Turn(told, field, f"{field}.content", learnt=weight is None or weight == 1)


def _sharegpt_turn(message: Mapping[str, Any], field: str) -> Turn:
    """Reads `{from, value}`; a `function_call` is a call written as JSON."""
    speaker, value = message["from"], message.get("value")
    role = ROLE_WORDS.get(str(speaker).lower(), speaker)
    told: dict[str, Any] = {"role": role, "content": value}
    if str(speaker).lower() == "function_call":
        told = {"role": "assistant", "content": None, "tool_calls": calls_from(value, f"{field}.value")}
    rest = {key: inner for key, inner in message.items() if key not in ("from", "value", "weight")}
    return Turn({**rest, **told}, field, f"{field}.value", learnt=message.get("weight", 1) != 0)


def calls_from(value: Any, field: str) -> list[Any]:
    """Reads tool calls that stand as JSON in a text: one, or a list of them.

    Raises:
        WrongField: it is not JSON.
    """
    if isinstance(value, str):
        try:
            value = read_json(value)
        except WrongJson as error:
            raise WrongField(field, "the tool call is not JSON", error.why, error.fix) from None
    calls = value if isinstance(value, list) else [value]
    return [{"type": "function", "function": call} if isinstance(call, Mapping) else call for call in calls]


def _parts(parts: list[Any], field: str) -> dict[str, Any]:
    """Gives reasoning and tool calls that stand among the parts of a content their own fields."""
    told: dict[str, Any] = {}
    kept: list[Any] = []
    for i, part in enumerate(parts):
        word = part.get("type") if isinstance(part, Mapping) else None
        value = part.get("value", part.get(str(word), part.get("text"))) if isinstance(part, Mapping) else None
        if word in ("reasoning", "thinking") and isinstance(value, str):
            told["reasoning_content"] = told.get("reasoning_content", "") + value
        elif word == "tool_call" and value is not None:
            told.setdefault("tool_calls", []).extend(calls_from(value, f"{field}.content[{i}]"))
        elif word == "text" and isinstance(value, str):
            kept.append({"type": "text", "text": value})
        else:
            kept.append(part)
    return {**told, "content": kept if kept or not told else None}


def looks_like_chat(value: Any) -> bool:
    """Tells whether a value is a list of messages in one of the forms above."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, Mapping) and ("role" in m or "from" in m) for m in value)
    )
