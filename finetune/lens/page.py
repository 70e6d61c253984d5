"""One page that holds every example: opens from disk, asks nobody for anything, and draws only what is looked at.

The data lie in it once, packed: each cell's text and ids in a table, the commonest first, so that most cells of an
example are one byte, and for each example which run of its cells has which fate. The page's script unpacks them
and counts its figures from them; it makes no markup of any text.
"""

from __future__ import annotations

import hashlib
import html
import json
from array import array
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.lens.cells import Cell, Reader, printable
from finetune.lens.choosing import SIDES, Shown
from finetune.lens.stretches import FATES, PARTS, Stretch, stretches

MOST_EXAMPLES = 10_000
"""On one page, unless more are asked for. Twice as many of 300 tokens made 15 MB, which a browser opened in 8.5 s."""

_HERE = Path(__file__).parent


@dataclass
class _Pack:
    """What is gathered of the examples, cells numbered as they come."""

    numbers: dict[Cell, int] = field(default_factory=dict)
    sequence: array[int] = field(default_factory=lambda: array("I"))
    runs: bytearray = field(default_factory=bytearray)
    roles: dict[str, int] = field(default_factory=dict)
    places: list[str] = field(default_factory=list)
    sides: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


def page(examples: Iterable[Shown], reader: Reader, facts: dict[str, Any]) -> str:
    """Writes the page.

    Args:
        examples: that it holds, in this order.
        reader: of the base's tokenizer.
        facts: `recipe`, `base`, `max_length`, and `of`: how many examples there are. Of an optimizer step also `step`,
            its number, and `packs`: how many of the examples each pack has, one after the other.
    """
    pack = _Pack()
    for shown in examples:
        _add(pack, shown, reader)
    told = json.dumps(facts | _packed(pack), ensure_ascii=False, separators=(",", ":"))
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    parts = {
        "TITLE": html.escape(f"{facts['recipe']}: what is learnt"),
        "STYLE": style,
        "SCRIPT": script,
        "POLICY": f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:",
        "DATA": told.replace("<", "\\u003c"),  # a row may hold </script>
    }
    return _filled((_HERE / "page.html").read_text(encoding="utf-8"), parts)


def _add(pack: _Pack, shown: Shown, reader: Reader) -> None:
    """Packs one example."""
    ids = [*shown.example.ids, *shown.example.cut]
    every = stretches(shown.example, reader, shown.is_left_out)
    pack.places.append(shown.example.place)
    pack.sides.append(SIDES.index(shown.side))
    pack.rows.append(shown.number)
    pack.runs += _varint(len(every))
    turn = -1
    for each in every:
        cells = reader.cells(ids[each.start : each.end])
        pack.sequence.extend(pack.numbers.setdefault(cell, len(pack.numbers)) for cell in cells)
        pack.runs += _varint(len(cells)) + _varint(_code(pack, each, begins=each.turn != turn))
        turn = each.turn


def _code(pack: _Pack, each: Stretch, *, begins: bool) -> int:
    """Says in one number of what role, part and fate a run is, and whether a turn begins with it."""
    role = pack.roles.setdefault(each.role, len(pack.roles))
    return ((role * len(PARTS) + PARTS.index(each.part)) * len(FATES) + FATES.index(each.fate)) * 2 + begins


def _packed(pack: _Pack) -> dict[str, Any]:
    """Gives what the script unpacks, the cells numbered anew by how often they occur."""
    uses = [0] * len(pack.numbers)
    for number in pack.sequence:
        uses[number] += 1
    cells = list(pack.numbers)
    order = sorted(range(len(cells)), key=lambda number: -uses[number])
    codes = [b""] * len(cells)
    for rank, number in enumerate(order):
        codes[number] = _varint(rank)
    return {
        "cells": [[printable(cells[number].text), *cells[number].ids] for number in order],
        "control": [rank for rank, number in enumerate(order) if cells[number].control],
        "roles": list(pack.roles),
        "parts": PARTS,
        "fates": FATES,
        "places": pack.places,
        "sides": pack.sides,
        "rows": pack.rows,
        "sequence": _base64(b"".join(codes[number] for number in pack.sequence)),
        "runs": _base64(bytes(pack.runs)),
    }


def _varint(number: int) -> bytes:
    """Writes a number in as few bytes as it needs, seven bits in each, the lowest first."""
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


def _hash(text: str) -> str:
    """Names a part of the page in its policy: a browser runs what has this hash, and nothing else."""
    return f"sha256-{_base64(hashlib.sha256(text.encode()).digest())}"


def _filled(template: str, parts: dict[str, str]) -> str:
    """Puts the parts in their places, once: what stands in a part is no place."""

    def pieces() -> Iterator[str]:
        rest = template
        for name in _in_order(template, list(parts)):
            before, _, rest = rest.partition(f"@{name}@")
            yield before
            yield parts[name]
        yield rest

    return "".join(pieces())


def _in_order(template: str, names: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: template.index(f"@{name}@"))
