"""Colours of a terminal, and the marks that stand for them where there are none."""

from __future__ import annotations

from dataclasses import dataclass

from finetune.lens.stretches import Fate

HEADING, FRAME = "1", "2"
"""Bold, faint: of the escape `ESC [ … m`. Source: ECMA-48, 8.3.117 SGR."""

CONTEXT = {"frame": FRAME, "reasoning": "3", "tool call": "38;5;31", "tool result": "38;5;136"}
CONTROL = "38;5;133"
"""Of 256 colours; middle tones, which can be read on black and on white."""

LEARNT = {"reasoning": ("3;", 189, 147), "tool call": ("", 153, 117)}
ANSWER = ("", 194, 151)
CUT = (224, 217)
"""Grounds by turns, so that the border of two tokens can be seen: pale, under black letters."""

EDGES: dict[Fate, str] = {"learnt": "38;5;34", "cut": "38;5;160", "context": ""}


@dataclass(frozen=True)
class Marks:
    """Characters that say without colour what is learnt, and show what cannot be seen."""

    learnt: tuple[str, str] = ("⟦", "⟧")
    cut: tuple[str, str] = ("⟨✂", "✂⟩")
    line_break: str = "⏎"
    space: str = "·"
    tab: str = "⇥"
    rule: str = "─"
    pack: str = "═"
    """Above a pack."""
    border: str = "┄"
    """Between two examples of a pack."""
    edges: tuple[str, str] = ("▌", "╳")

    def around(self, fate: Fate) -> tuple[str, str]:
        """Gives what stands before and behind tokens of this fate."""
        return {"learnt": self.learnt, "cut": self.cut, "context": ("", "")}[fate]

    def edge(self, fate: Fate) -> str:
        """Gives what stands at the edge of a line that holds some."""
        return {"learnt": self.edges[0], "cut": self.edges[1], "context": ""}[fate]


UNICODE = Marks()
ASCII = Marks(("[[", "]]"), ("[-", "-]"), "\\n", "_", "\\t", "-", "=", ".", ("|", "x"))
"""For a terminal that has no others."""


def style_of(fate: Fate, part: str, control: bool, number: int) -> str:
    """Gives the style of a cell.

    Args:
        fate: learnt is bold, cut is crossed out.
        part: of the turn.
        control: whether it is a control token.
        number: of the cell, for grounds by turns.
    """
    if fate == "context":
        return CONTROL if control else CONTEXT.get(part, "")
    if fate == "cut":
        return f"9;38;5;16;48;5;{CUT[number % 2]}"
    slant, *grounds = LEARNT.get(part, ANSWER)
    return f"1;{slant}38;5;{53 if control else 16};48;5;{grounds[number % 2]}"


def below_style(style: str) -> str:
    """Gives the style of an id under a cell of this style: the same ground, lighter letters."""
    return style.removeprefix("1;").removeprefix("9;") if "48;" in style else FRAME


def paint(text: str, style: str, color: bool) -> str:
    """Puts a text into a style, and ends it."""
    return f"\x1b[{style}m{text}\x1b[0m" if color and style and text else text
