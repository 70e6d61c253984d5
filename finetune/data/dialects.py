"""Knows the shapes that data comes in elsewhere, to say in one line how to turn them into ours."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

ROLES = ("system", "user", "assistant", "tool")
MESSAGE_KEYS = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name")


def unknown_role(role: Any) -> tuple[str, str, str]:
    """Says what, why and fix for a role that a chat does not have."""
    meant = {
        "human": "user",
        "gpt": "assistant",
        "bot": "assistant",
        "model": "assistant",
        "developer": "system",
    }
    meant |= {"function": "tool", "observation": "tool", "function_call": "assistant"}
    close = difflib.get_close_matches(str(role).lower(), ROLES, n=1, cutoff=0.4)
    word = meant.get(str(role).lower()) or (close[0] if close else "user")
    what = "the message has no role" if role is None else f"there is no role {json.dumps(role, default=str)}"
    return what, f"a role is one of {', '.join(ROLES)}", f'"role": "{word}"'


def unknown_field(key: str) -> tuple[str, str, str]:
    """Says what, why and fix for a field that the chat template would drop."""
    if key in ("thinking", "reasoning", "thought", "thoughts", "think"):
        return (
            f"{key} is not read by the chat template",
            "the reasoning would be lost",
            f'rename "{key}" to "reasoning_content"',
        )
    if key == "function_call":
        return (
            "function_call is the old form of a tool call",
            "the template would drop it",
            '"tool_calls": [{"type": "function", "function": {...}}]',
        )
    if key in ("from", "value", "text"):
        return (
            f"{key} is not a field of a message",
            "this looks like ShareGPT",
            '{"role": "user", "content": "..."}',
        )
    close = difflib.get_close_matches(key, MESSAGE_KEYS, n=1)
    return (
        f"a message has no field {key}",
        "the chat template would drop it",
        f'rename it to "{close[0]}"' if close else f'remove "{key}"',
    )


def mapping_for(value: dict[str, Any]) -> tuple[str, str]:
    """Recognises the usual other shapes and writes the jq that converts them."""
    keys = set(value)
    if "conversations" in keys:
        roles = '{"human":"user","user":"user","gpt":"assistant","assistant":"assistant","system":"system"}'
        return (
            "it looks like ShareGPT",
            f"jq -c '{{messages: [.conversations[] | {{role: {roles}[.from], content: .value}}]}}' IN > OUT",
        )
    if {"instruction", "output"} <= keys:
        return (
            "it looks like Alpaca",
            'jq -c \'{prompt: (.instruction + "\\n\\n" + (.input // "")), completion: .output}\' IN > OUT',
        )
    for question, answer in (
        ("question", "answer"),
        ("input", "output"),
        ("query", "response"),
        ("instruction", "response"),
    ):
        if {question, answer} <= keys:
            return (
                f"it has {question} and {answer}",
                f"jq -c '{{prompt: .{question}, completion: .{answer}}}' IN > OUT",
            )
    close = difflib.get_close_matches("messages", list(value), n=1, cutoff=0.7)
    if close:
        return f"it has {close[0]}", f'rename "{close[0]}" to "messages"'
    return "a row has messages, or a prompt and its completion", '{"prompt": "...", "completion": "..."}'


def conversion(file: Path, name: str) -> str:
    """Gives the command that converts a file of another format to JSON Lines, or nothing."""
    with file.open("rb") as stream:
        head = stream.read(4096)
    stem = name.rsplit(".", 1)[0]
    if head.startswith(b"\x1f\x8b"):
        return f"gunzip -k {name}"
    if head.startswith(b"PAR1"):
        return _by_pandas(f"read_parquet('{name}')", stem)
    if head.startswith(b"PK"):
        return _by_pandas(f"read_excel('{name}')", stem)
    if file.suffix in (".csv", ".tsv"):
        separator = "\\t" if file.suffix == ".tsv" else ","
        return _by_pandas(f"read_csv('{name}', sep='{separator}')", stem)
    if head.lstrip().startswith(b"["):
        return f"jq -c '.[]' {name} > {stem}.jsonl"
    if head.split(None, 1)[:1] == [b"{"]:
        return f"jq -c . {name} > {stem}.lines.jsonl"
    return ""


def _by_pandas(read: str, stem: str) -> str:
    write = f"to_json('{stem}.jsonl', orient='records', lines=True)"
    return f'python -c "import pandas; pandas.{read}.{write}"'
