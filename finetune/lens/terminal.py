"""Draws examples for a terminal: what is learnt stands out by weight, ground and a mark at the edge, not by hue alone.

Plain escapes, not a library's layout: every line closes its own colours, none loses a space at its end, and nothing
that stands in the data is ever taken for markup.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from unicodedata import east_asian_width

from rich.cells import cell_len

from finetune.lens.cells import Cell, Reader, printable
from finetune.lens.choosing import IN_WORDS, Shown
from finetune.lens.flow import BREAK, Piece, columns, flow
from finetune.lens.steps import Step
from finetune.lens.stretches import Fate, Stretch, stretches
from finetune.lens.styles import EDGES, FRAME, HEADING, UNICODE, Marks, below_style, paint, style_of
from finetune.lens.telling import learnt_parts

EDGE = 2
"""Columns at the left edge, for the mark of a line that holds something learnt or cut."""


@dataclass(frozen=True)
class Look:
    """How it is to be drawn."""

    width: int = 100
    """Columns of the terminal."""
    color: bool = False
    ids: bool = False
    """The ids under their tokens."""
    spaces: bool = False
    """Spaces as dots; always so with ids."""
    marks: Marks = UNICODE


def draw(shown: Shown, reader: Reader, max_length: int, look: Look) -> str:
    """Draws one example: its figures, then each of its turns."""
    lines = list(_head(shown, reader, max_length, look))
    every = stretches(shown.example, reader, shown.is_left_out)
    ids = [*shown.example.ids, *shown.example.cut]
    for _, turn in groupby(every, key=lambda each: each.turn):
        lines += _turn(list(turn), ids, reader, look)
    return "\n".join(lines)


def draw_step(step: Step, reader: Reader, max_length: int, look: Look) -> str:
    """Draws the examples of an optimizer step; where they are packed, with a border wherever one begins."""
    count = len(step.examples)
    head = paint(f"step {step.number:,} of {step.of:,}", HEADING, look.color) + f", epoch {step.epoch:,}: "
    if not step.packed:
        blocks = [f"{head}{count:,} examples side by side, longest first"]
        blocks += [draw(shown, reader, max_length, look) for shown in step.examples]
        return "\n\n".join(blocks)
    blocks = [f"{head}{count:,} examples end to end in {len(step.packs):,} packs of at most {max_length:,} tokens"]
    for number, pack in enumerate(step.packs, 1):
        figures = (
            f"{len(pack):,} example{'s' if len(pack) > 1 else ''}, {sum(shown.num_tokens for shown in pack):,} tokens"
        )
        blocks.append(_rule(f"pack {number} of {len(step.packs)}", figures, look.marks.pack, look))
        start = 0
        for shown in pack:
            if start:
                left, right = "border: nothing behind it sees what is before", f"token {start + 1:,}, positions from 0"
                blocks.append(_rule(left, right, look.marks.border, look))
            blocks.append(draw(shown, reader, max_length, look))
            start += len(shown.example)
    return "\n\n".join(blocks)


def legend(look: Look) -> str:
    """Explains the marks and colours, each drawn as it is used."""
    marks = look.marks

    def sample(text: str, fate: Fate, part: str = "text") -> str:
        opening, closing = ("", "") if look.color else marks.around(fate)
        return f"{opening}{paint(text, style_of(fate, part, False, 0), look.color)}{closing}"

    learnt = sample("learnt", "learnt")
    if look.color:
        parts = ", ".join(sample(part, "learnt", part) for part in ("reasoning", "tool call"))
        learnt += f" ({parts})"
    edges = f"{paint(marks.edge('learnt'), EDGES['learnt'], look.color)} line with learnt tokens"
    shown = [learnt, edges, "context", sample("cut off", "cut"), f"{marks.line_break} line break"]
    if look.spaces or look.ids:
        shown.append(f"{marks.space} space")
    return "   ".join(shown)


def _head(shown: Shown, reader: Reader, max_length: int, look: Look) -> Iterator[str]:
    """Tells where the example stands, and its figures."""
    yield paint(shown.example.place, HEADING, look.color) + f"   example {shown.number:,} {IN_WORDS[shown.side]}"
    if shown.is_left_out:
        yield f"{shown.num_tokens:,} tokens, more than max_length {max_length:,}: nobody sees them"
        return
    parts = learnt_parts(shown, reader)
    share = shown.num_learnt / len(shown.example)
    verb = "learnt" if shown.side == "train" else "scored"
    of = f" ({', '.join(f'{part} {count:,}' for part, count in parts.items())})" if set(parts) != {"answer"} else ""
    cut = f"{shown.num_cut:,} more were cut off" if shown.num_cut else "nothing was cut"
    seen = f"{len(shown.example):,} tokens, {shown.num_learnt:,} {verb}, {share:.0%}{of}"
    yield f"{seen}; max_length {max_length:,}, {cut}"


def _turn(turn: Sequence[Stretch], ids: Sequence[int], reader: Reader, look: Look) -> Iterator[str]:
    """Draws a turn under a rule that names it."""
    learnt = sum(each.end - each.start for each in turn if each.fate == "learnt")
    length = turn[-1].end - turn[0].start
    cut = all(each.fate == "cut" for each in turn)
    name = turn[0].role or "text"
    figures = f"{length:,} tokens" + (", cut off" if cut else f", {learnt:,} learnt" if learnt else "")
    yield _rule(name, figures, look.marks.rule, look)
    pieces = list(_pieces(turn, ids, reader, look))
    laid = columns(pieces, look.width - EDGE) if look.ids else flow(pieces, look.width - EDGE)
    for line in laid:
        fates = {piece.fate for piece in line}
        fate: Fate = "learnt" if "learnt" in fates else "cut" if "cut" in fates else "context"
        yield from _line(line, look, fate)


def _rule(name: str, figures: str, rule: str, look: Look) -> str:
    """Draws a line across the terminal, with a name at its left and figures at its right."""
    left, right = f"{rule * 2} {name} ", f" {figures} {rule * 2}"
    return paint(left + rule * max(2, look.width - len(left) - len(right)) + right, FRAME, look.color)


def _line(line: Sequence[Piece], look: Look, fate: Fate) -> Iterator[str]:
    """Paints a line and, where ids are asked for, the ids below it, column under column."""
    edge = paint(look.marks.edge(fate).ljust(EDGE), EDGES[fate], look.color)
    rows = ("text", "below") if look.ids else ("text",)
    for row in rows:
        runs = groupby(line, key=lambda piece: piece.style if row == "text" else below_style(piece.style))
        painted = [paint("".join(_filled(piece, row, look) for piece in run), style, look.color) for style, run in runs]
        drawn = edge + "".join(painted)
        yield drawn.rstrip() if look.ids and not look.color else drawn


def _filled(piece: Piece, row: str, look: Look) -> str:
    text = piece.text if row == "text" else piece.below
    return text + " " * (piece.width - cell_len(text)) if look.ids else text


def _pieces(turn: Sequence[Stretch], ids: Sequence[int], reader: Reader, look: Look) -> Iterator[Piece]:
    """Cuts a turn into the pieces that lines are made of: cells, the breaks in them, and the marks around them."""
    number = 0
    for fate, run in groupby(turn, key=lambda each: each.fate):
        pieces: list[Piece] = []
        for stretch in run:
            for cell in reader.cells(ids[stretch.start : stretch.end]):
                style = style_of(stretch.fate, stretch.part, cell.control, number)
                pieces += _of_cell(cell, style, stretch.fate, look)
                number += 1
        yield from pieces if look.color else _marked(pieces, *look.marks.around(fate))


def _marked(pieces: Sequence[Piece], opening: str, closing: str) -> list[Piece]:
    """Puts marks around pieces; a mark stands in the same line as what it marks."""
    marked = list(pieces)
    last = max(at for at, piece in enumerate(pieces) if piece is not BREAK)
    for at, before, behind in ((0, opening, ""), (last, "", closing)):
        text = f"{before}{marked[at].text}{behind}"
        width = marked[at].width + cell_len(before + behind)
        marked[at] = replace(marked[at], text=text, width=width)
    return marked


def _of_cell(cell: Cell, style: str, fate: Fate, look: Look) -> list[Piece]:
    """Makes the pieces of a cell: one, or one for each of its lines."""
    text = printable(cell.text).replace("\t", look.marks.tab)
    if look.spaces or look.ids:
        text = text.replace(" ", look.marks.space)
    if look.ids:  # one column for one cell: its breaks come behind it
        shown, below = text.replace("\n", look.marks.line_break), "+".join(map(str, cell.ids))
        column = Piece(shown, below, style, fate, max(cell_len(shown), len(below)) + 1)
        return [column, BREAK] if "\n" in text else [column]
    glued = not cell.control and _is_glued(cell.text)
    *broken, rest = text.split("\n")
    pieces: list[Piece] = []
    for part in broken:
        shown = part + look.marks.line_break
        pieces += [Piece(shown, "", style, fate, cell_len(shown), glued), BREAK]
    word = rest.lstrip(" " + look.marks.space)
    space = rest[: len(rest) - len(word)]
    if space:  # it ends a line rather than begin the next
        pieces.append(Piece(space, "", style, fate, len(space), True))
    if word:
        pieces.append(Piece(word, "", style, fate, cell_len(word), glued))
    return pieces


def _is_glued(text: str) -> bool:
    """Whether no line may begin with this: it goes on with a word, or ends a line."""
    return text[0] == "\n" or not (text[0].isspace() or east_asian_width(text[0]) in "WF")
