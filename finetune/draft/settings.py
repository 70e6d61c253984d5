"""What the user wishes of a draft."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Kind(StrEnum):
    """What is drafted."""

    qa = "qa"
    """Questions that stand alone, and their answers."""
    instruction = "instruction"
    """Tasks about a passage, which the prompt holds."""


@dataclass(frozen=True)
class Settings:
    """What decides what a chunk is asked: if any of it changes, all is asked anew."""

    model: str
    kind: Kind = Kind.qa
    per_chunk: int = 3
    """Pairs that are asked for."""
    chunk_tokens: int = 800
    language: str = ""
    """In which the pairs shall be; empty: that of the document."""


@dataclass(frozen=True)
class Prices:
    """What the teacher costs, in the user's currency for a million tokens."""

    read: float
    written: float

    def of(self, read: float, written: float) -> float:
        """Gives what so many tokens cost."""
        return (read * self.read + written * self.written) / 1e6


@dataclass(frozen=True)
class Wishes:
    """All that a draft is told."""

    documents: tuple[Path, ...]
    settings: Settings
    out: Path
    limit: int | None = None
    """Chunks that are asked about, the first ones."""
    parallel: int = 4
    """Chunks that are asked about at once."""
    prices: Prices | None = None
