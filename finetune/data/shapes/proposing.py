"""Proposes the `data.columns` that a record of no known shape probably needs, in one line to copy."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from finetune.data.shapes.chats import is_transcript, looks_like_chat
from finetune.data.shapes.columns import Column
from finetune.data.wrong import WrongField
from finetune.recipe.proposals import show

PAIRS = (
    ("question", "answer"),
    ("input", "output"),
    ("query", "response"),
    ("instruction", "response"),
    ("prompt", "response"),
    ("prompt", "answer"),
    ("question", "response"),
    ("query", "answer"),
)
"""Columns that hold what was asked and what was answered."""

ASKED = ("question", "prompt", "query", "problem", "utterance", "sentence", "text", "input", "instruction", "title")
ANSWERED = ("answer", "completion", "response", "output", "long_answer", "solution", "canonical_solution", "target")
LABELS = ("correct", "label", "final_decision", "category", "summary", "translation", "ground_truth")
CONTEXT = (
    *("instruction", "table", "context", "contexts", "passage", "passages", "document", "article", "paragraphs"),
    *("evidence", "options", "choices", "input", "background"),
)
PAIR = '{"prompt": "...", "completion": "..."}'
UNCERTAIN = "which column asks and which answers is not certain"
NOBODY_ANSWERS = "the rows ask and nobody answers"
NOBODY_ASKS = "the rows answer and nobody asks"
NO_SHAPE = "the row has no shape that is known"
OF_THE_FILE = (UNCERTAIN, NOBODY_ANSWERS, NOBODY_ASKS, NO_SHAPE)
"""What is wrong with a file rather than with one of its rows."""

TOOLS = ("tools", "functions", "function")
"""Names, in lower case and without underscores, the likeliest first; what of CONTEXT comes first stands first."""


def of_name(record: Mapping[str, Any], name: str) -> str:
    """Finds the column of a name, whatever its case and underscores; nothing if there is none."""
    plain = name.replace("_", "")
    return next((key for key in record if key.lower().replace("_", "").replace(" ", "") == plain), "")


def no_shape(record: dict[str, Any]) -> WrongField:
    """Says what a record of no known shape holds, and which `data.columns` would read it."""
    told = ", ".join(list(record)[:12]) + (", …" if len(record) > 12 else "") or "(empty)"
    if "prompt" in record or "completion" in record:
        missing = "completion" if "prompt" in record else "prompt"
        if not (missing == "completion" and answers(record)):
            why = "a prompt and its completion come together"
            return WrongField(missing, f"the row has no {missing}", why, f'"{missing}": "..."')
    asks = [key for key, value in record.items() if _only_asks(key, value)]
    if asks or (_first(record, ASKED) and not answers(record) and not _texts(record, but=_first(record, ASKED))):
        why = f"no column of {told} holds an answer"
        return WrongField(told, NOBODY_ANSWERS, why, PAIR)
    chats = {key.lower(): key for key, value in record.items() if value == [] or looks_like_chat(value)}
    if close := difflib.get_close_matches("messages", chats, n=1, cutoff=0.7):
        return WrongField(told, NO_SHAPE, f"it has {close[0]}", f'rename "{chats[close[0]]}" to "messages"')
    if answers(record) and not _first(record, ASKED) and not _texts(record, but=answers(record)):
        return WrongField(told, NOBODY_ASKS, f"no column of {told} holds a question", PAIR)
    columns = propose(record)
    if columns is None:
        return WrongField(told, NO_SHAPE, "a row has messages, or a prompt and its completion", PAIR)
    why = f"its columns are {told}; {reading(columns)}"
    return WrongField(told, UNCERTAIN, why, f"data.columns: {show(columns)}")


def propose(record: dict[str, Any]) -> dict[str, Column] | None:
    """Guesses which column is what; None where nothing can be asked and answered."""
    tools = _first(record, TOOLS)
    extra: dict[str, Column] = {"tools": tools} if tools and isinstance(record[tools], list) else {}
    if chat := next((key for key, value in record.items() if looks_like_chat(value) or is_transcript(value)), ""):
        return {"messages": chat, **extra}
    for key, value in record.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping) and (inner := propose(dict(value[0]))):
            around = _context(record, but=key)
            if {"prompt", "completion"} <= inner.keys() and _first(value[0], ASKED) and answers(value[0]):
                return {"each": key, "prompt": _joined([*around, inner["prompt"]]), "completion": inner["completion"]}
    answer = answers(record)
    asked = next((key for word in ASKED if (key := of_name(record, word)) and key != answer.split("[")[0]), "")
    if not asked or not answer:
        texts = _texts(record)
        if len(texts) < 2:
            return None
        asked = asked or max((key for key in texts if key != answer), key=lambda key: len(record[key]))
        answer = answer or texts[-1]
        if asked == answer:
            return None
    around = _context(record, but=asked, also=answer)
    last = [key for key in around if key.split(".")[0].lower() in ("options", "choices")]
    first = [key for key in around if key not in last]
    return {"prompt": _joined([*first, asked, *last]), "completion": answer, **extra}


def reading(columns: Mapping[str, Column]) -> str:
    """Says a proposal in words."""
    if "messages" in columns:
        return f"{columns['messages']} looks like a chat"
    asked, answer = columns["prompt"], columns["completion"]
    words = asked if isinstance(asked, str) else " and ".join(asked)
    return f"{words} may ask and {answer} may answer"


def answers(record: Mapping[str, Any]) -> str:
    """Finds the column that answers; where it only says which option is right, the option."""
    answer = _first(record, ANSWERED) or _long_text(record) or _first(record, LABELS)
    options = next((key for word in ("options", "choices") if (key := of_name(record, word))), "")
    number = next((key for word in ("answer_idx", "answerindex", "correct") if (key := of_name(record, word))), "")
    if options and number and isinstance(record[number], int | list):
        return f"{options}[{number}]"
    return answer


def _long_text(record: Mapping[str, Any]) -> str:
    """Finds a sentence that stands beside what asks."""
    asked = _first(record, ASKED)
    around = {of_name(record, word) for word in (*CONTEXT, *ASKED)}
    texts = [key for key in _texts(record, but=asked) if key not in around and len(record[key].split()) >= 5]
    return texts[0] if asked and texts else ""


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((key for name in names if (key := of_name(record, name))), "")


def _context(record: Mapping[str, Any], but: str, also: str = "") -> list[str]:
    """Lists what belongs to the question: tables, passages, options; as paths to what in them is text."""
    taken = {but, also}
    found = [key for word in CONTEXT if (key := of_name(record, word)) and key not in taken and record[key]]
    return [path for key in dict.fromkeys(found) if (path := _textual(key, record[key]))]


def _textual(path: str, value: Any) -> str:
    """Goes down to what holds text: the rows of a table, the texts of paragraphs."""
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return f"{path}.text" if "text" in value[0] else ""
    if isinstance(value, Mapping):
        inner = next((key for key, v in value.items() if isinstance(v, list)), "")
        return f"{path}.{inner}" if inner else path
    return path


def _texts(record: Mapping[str, Any], but: str = "") -> list[str]:
    """Lists the columns that hold a text of their own."""
    passed = {but, "id", "index", "key"}
    texts = [key for key, value in record.items() if isinstance(value, str) and value.strip() and key not in passed]
    return [key for key in texts if "@" not in key]  # attributes of XML


def _only_asks(key: str, value: Any) -> bool:
    """Recognises chats without an answer, as test sets hold them: lists of lists of a user's messages, or of texts."""
    if key == "turns" and isinstance(value, list):
        return all(isinstance(said, str) for said in value)
    if isinstance(value, list) and value and isinstance(value[0], list):
        return all(looks_like_chat(chat) and all(m.get("role") == "user" for m in chat) for chat in value)
    return False


def _joined(columns: list[Any]) -> Column:
    flat = [name for column in columns for name in ([column] if isinstance(column, str) else column)]
    return flat[0] if len(flat) == 1 else tuple(flat)
