"""What a record of any shape comes to: turns of a conversation, or a text that is learnt as it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune.data.turns import Turn


@dataclass(frozen=True)
class Talk:
    """A record, its shape recognised; its messages are not checked yet."""

    shape: str
    """What the shape is called: messages, ShareGPT, Alpaca, …"""
    turns: tuple[Turn, ...] = ()
    learn_from: int = 0
    """Index of the first turn that may be learnt."""
    tools: Any = None
    tools_field: str = "tools"
    text: str | None = None
    """A raw text, in place of turns."""
    read: frozenset[str] = frozenset()
    """Columns that were read."""
