"""Which rows are learnt and which are held out: by content, so that no row and no likeness stands on both sides."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mark:
    """What the side of a row follows from."""

    fingerprint: bytes
    """Its sha256."""
    likeness: int
    """The same for rows of the same words, whatever their case, spaces and punctuation."""
    group: int = 0
    """The same for rows that `data.group` keeps together; 0 without it."""


def held_out(marks: Sequence[Mark], share: float) -> bytearray:
    """Chooses the rows to hold out.

    Rows that are alike, or of one group, stand on the same side; the same rows are held out whatever their order.
    The share is of distinct rows, met as nearly as whole groups allow.

    Args:
        marks: of all rows.
        share: to hold out.

    Returns:
        For each row 1 if it is held out; none is if all of them belong together.
    """
    clusters: dict[int, list[int]] = defaultdict(list)
    for i, root in enumerate(_together(marks)):
        clusters[root].append(i)
    if len(clusters) < 2:
        return bytearray(len(marks))
    drawn = sorted(clusters.values(), key=lambda rows: _draw(marks, rows))
    sizes = [len({marks[i].fingerprint for i in rows}) if len(rows) > 1 else 1 for rows in drawn]
    wanted, taken = max(1, round(share * sum(sizes))), 0
    held = bytearray(len(marks))
    for rows, size in zip(drawn, sizes, strict=True):
        if taken < wanted and abs(taken + size - wanted) <= wanted - taken:
            taken += size
            for i in rows:
                held[i] = 1
    if not taken:  # each group is larger than what is wanted, twice over
        for i in min(drawn, key=len):
            held[i] = 1
    return held


def drawn_first(fingerprint: bytes) -> bytes:
    """Gives the key by which rows are drawn: as good as chance, and the same on every machine."""
    return hashlib.sha256(fingerprint.hex().encode()).digest()


def drawn_share(fingerprint: bytes) -> float:
    """Gives where a row stands among all that are drawn for a part of a source, from 0 to 1.

    It tells nothing of whether the row is held out: rows would otherwise be thinned where they are held out.
    """
    return int.from_bytes(hashlib.sha256(b"part" + fingerprint).digest()[:8]) / 2**64


def _draw(marks: Sequence[Mark], rows: Sequence[int]) -> bytes:
    return drawn_first(min(marks[i].fingerprint for i in rows))


def _together(marks: Sequence[Mark]) -> list[int]:
    """Gives each row the number of its cluster: rows alike or of one group, and whoever is that with one of them."""
    parent = list(range(len(marks)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, int], int] = {}
    for i, mark in enumerate(marks):
        for key in (("alike", mark.likeness), ("group", mark.group)) if mark.group else (("alike", mark.likeness),):
            other = root(first.setdefault(key, i))
            parent[max(root(i), other)] = min(root(i), other)
    return [root(i) for i in range(len(marks))]
