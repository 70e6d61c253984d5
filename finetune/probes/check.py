"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GIB = 2**30

State = Literal["ok", "slow", "broken", "absent"]
"""`slow` trains, at a price that is told; `absent` is not needed here; `broken` stops a training."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    told: str
    """What was found, in one line."""
    fix: str = ""
    """The command that mends it, in one line; empty where nothing is to be mended."""


def amount(size: int) -> str:
    """Writes bytes as a person reads them."""
    return f"{size / GIB:,.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:,.0f} MiB"


def one_line(text: str, most: int = 160) -> str:
    """Folds what another program said into one line of a report."""
    folded = " ".join(text.split())
    return folded if len(folded) <= most else folded[: most - 1] + "…"
