"""Words of others on a page in Markdown: whatever they hold, they stay words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

ESCAPED = re.compile(r"([\\`*_\[\]<>|~$&#])")
"""What Markdown, HTML and formulas may find in a line."""

BLOCK_MARK = re.compile(r"^(?:([-+=])|([0-9]+)(?=[.)]))")
"""What begins a list or underlines a heading."""


def visible(text: str) -> str:
    """Drops characters that are not seen themselves, but for ends of lines: they may reverse or hide what is read."""
    return "".join(each for each in text if each in "\n\t" or unicodedata.category(each) not in ("Cc", "Cf", "Cs"))


def one_line(text: str) -> str:
    """Lays a text on one line."""
    return " ".join(visible(text).split())


def plain(text: str) -> str:
    """Writes a text on one line so that it is shown as it is."""
    line = ESCAPED.sub(r"\\\1", one_line(text))
    return BLOCK_MARK.sub(lambda found: f"\\{found[1]}" if found[1] else f"{found[2]}\\", line)


def quoted(text: str) -> str:
    """Writes a text of several lines as a quotation, so that it can be told from what the page itself says."""
    return "\n".join(f"> {plain(line)}".rstrip() for line in visible(text).strip().splitlines() or [""])


def code(text: str) -> str:
    """Writes a name, a hash or a command as it is, in a line or in the cell of a table."""
    line = one_line(text).replace("|", "¦")  # which ends a cell even in code
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}" if line else ""


def fenced(text: str, language: str = "") -> str:
    """Writes a text as a block that ends where the text does."""
    shown = visible(text).strip("\n")
    fence = "`" * max(3, max(map(len, re.findall("`+", shown)), default=0) + 1)
    return f"{fence}{language}\n{shown}\n{fence}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Writes a table, whose cells are Markdown already."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))


def figure(value: float) -> str:
    """Writes a figure to four places, or in powers of ten where that would show nothing of it."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.2e}"


def shares(*values: float) -> str:
    """Writes a share and its interval in percent, with as many digits as tell what is nearly all from all."""
    away = [abs(1 - value) for value in values if value != 1]
    places = next((each for each in range(1, 5) if all(round(gap * 100, each) >= 10**-each for gap in away)), 5)
    value, low, high = (f"{each:.{places}%}" for each in values)
    return f"{value} [{low}, {high}]"
