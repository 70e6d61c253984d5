"""Knows what others call a role or a field, to read it or to say how it is called here."""

from __future__ import annotations

import difflib
import json
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
