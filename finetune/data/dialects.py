"""Knows the shapes that data comes in elsewhere, to say in one line how to turn them into ours."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from pathlib import Path
from typing import Any

ROLES = ("system", "user", "assistant", "tool")
MESSAGE_KEYS = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name")

ROLE_WORDS = {
    "human": "user",
    "customer": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "developer": "system",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}
"""What others call a role -> what it is called here."""

PAIRS = (
    ("question", "answer"),
    ("input", "output"),
    ("query", "response"),
    ("instruction", "response"),
    ("instruction", "output"),
    ("prompt", "response"),
    ("prompt", "chosen"),
)
"""Columns that hold what was asked and what was answered."""

SHAREGPT = (
    '{messages: [.conversations[] | {role: ({"human":"user","gpt":"assistant","observation":"tool"}[.from] // .from), '
    "content: .value}]}"
)
ALPACA = '{prompt: ([.instruction, .input] | map(select(. != null and . != "")) | join("\\n\\n")), completion: .output}'


def unknown_role(role: Any) -> tuple[str, str, str]:
    """Says what, why and fix for a role that a chat does not have."""
    close = difflib.get_close_matches(str(role).lower(), ROLES, n=1, cutoff=0.4)
    word = ROLE_WORDS.get(str(role).lower()) or (close[0] if close else "user")
    what = "the message has no role" if role is None else f"there is no role {json.dumps(role, ensure_ascii=False)}"
    return what, f"a role is one of {', '.join(ROLES)}", f'"role": "{word}"'


def unknown_field(key: str) -> tuple[str, str, str]:
    """Says what, why and fix for a field that the chat template would drop."""
    if key in ("thinking", "reasoning", "thought", "thoughts", "think"):
        what, why = f"{key} is not read by the chat template", "the reasoning would be lost"
        return what, why, f'rename "{key}" to "reasoning_content"'
    if key == "function_call":
        what, why = "function_call is the old form of a tool call", "the template would drop it"
        return what, why, '"tool_calls": [{"type": "function", "function": {"name": "...", "arguments": {}}}]'
    if key in ("from", "value", "text"):
        return f"{key} is not a field of a message", "this looks like ShareGPT", '{"role": "user", "content": "..."}'
    close = difflib.get_close_matches(key, MESSAGE_KEYS, n=1)
    fix = f'rename it to "{close[0]}"' if close else f'remove "{key}"'
    return f"a message has no field {key}", "the chat template would drop it", fix


def mapping_for(row: dict[str, Any], name: str) -> tuple[str, str]:
    """Recognises the usual other shapes of a row; says why, and writes the jq that converts the file."""
    told = set(row)
    if "conversations" in told:
        return "it looks like ShareGPT", _jq(SHAREGPT, name)
    if {"instruction", "input", "output"} <= told:
        return "it looks like Alpaca", _jq(ALPACA, name)
    for asked, answered in PAIRS:
        if {asked, answered} <= told:
            return f"it has {asked} and {answered}", _jq(f"{{prompt: .{asked}, completion: .{answered}}}", name)
    close = difflib.get_close_matches("messages", [key.lower() for key in row], n=1, cutoff=0.7)
    if close:
        return f"it has {close[0]}", f'rename "{next(k for k in row if k.lower() == close[0])}" to "messages"'
    if "text" in told:
        why = "a text alone does not say what is asked and what is answered"
        return why, '{"prompt": "what comes before the answer", "completion": "the answer"}'
    return "a row has messages, or a prompt and its completion", '{"prompt": "...", "completion": "..."}'


def conversion(file: Path, name: str) -> str:
    """Gives the command that converts a file of another format to JSON Lines, or nothing.

    What the file holds decides; a name can lie.
    """
    with file.open("rb") as stream:
        head = stream.read(65536)
    stem = name.removesuffix(file.suffix)
    if head.startswith(b"\x1f\x8b"):
        target = stem if file.suffix == ".gz" and stem.endswith(".jsonl") else f"{stem}.jsonl"
        return f"gunzip -c {shlex.quote(name)} > {shlex.quote(_other(target, name))}"
    if head.startswith(b"PAR1"):
        return _pandas(f"read_parquet({json.dumps(name)})", stem, name)
    if head.startswith(b"PK\3\4"):
        excel = file.suffix in (".xlsx", ".xlsm")
        return _pandas(f"read_excel({json.dumps(name)})", stem, name) if excel else f"unzip {shlex.quote(name)}"
    if head.lstrip().startswith(b"["):
        return f"jq -c '.[]' {shlex.quote(name)} > {shlex.quote(_other(f'{stem}.jsonl', name))}"
    if head.split(None, 1)[:1] == [b"{"]:
        return f"jq -c . {shlex.quote(name)} > {shlex.quote(_other(f'{stem}.jsonl', name))}"
    if separator := _separator(head):
        return _pandas(f"read_csv({json.dumps(name)}, sep={json.dumps(separator)})", stem, name)
    return ""


def _separator(head: bytes) -> str:
    """Recognises a table: its head and its first row are cut into as many fields, two or more, by one separator."""
    lines = [line for line in head.splitlines() if line.strip()][:2]
    if len(lines) < 2 or lines[0].lstrip().startswith((b"{", b"\0")) or b"\0" in head:
        return ""
    for separator in "\t;,":
        numbers = [len(re.sub(rb'"[^"]*"', b"", line).split(separator.encode())) for line in lines]
        if numbers[0] > 1 and numbers[0] == numbers[1]:
            return separator
    return ""


def _jq(mapping: str, name: str) -> str:
    return f"jq -c {shlex.quote(mapping)} {shlex.quote(name)} > {shlex.quote(_other(name, name))}"


def _pandas(read: str, stem: str, name: str) -> str:
    target = json.dumps(_other(f"{stem}.jsonl", name))
    code = f'import pandas; pandas.{read}.to_json({target}, orient="records", lines=True, force_ascii=False)'
    return f"python -c {shlex.quote(code)}"


def _other(target: str, name: str) -> str:
    """Names the file to write; never the one that is read."""
    return target if target != name else f"{Path(name).with_suffix('')}.converted.jsonl"
