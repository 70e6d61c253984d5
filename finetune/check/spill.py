"""Rows as units in a file of its own, so that a million of them need little memory; gone when it is closed."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterator

import numpy as np

from finetune.check.finding import SNIPPET
from finetune.check.words import Units, runs

MOST_SHINGLES = 2_000_000
"""Of the rows whose shingles are held while they are compared; a set takes some 60 bytes for each."""


class Spill:
    """Rows are appended, and read back one by one or in their order."""

    def __init__(self) -> None:
        self._units, self._snippets = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        self._ends, self._answers, self._sizes = array("q", [0]), array("q"), array("b")
        self._sets: dict[int, set[int]] = {}
        self._held = 0

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, units: Units, answer: int, size: int, snippet: str) -> None:
        """Appends a row.

        Args:
            units: of the row, those of its answers last.
            answer: index of the first unit of its answers.
            size: units of a shingle.
            snippet: what to show of it.
        """
        self._units.write(units.tobytes())
        self._snippets.write(snippet.encode("utf-8", "replace")[: 2 * SNIPPET].ljust(2 * SNIPPET))
        self._answers.append(answer)
        self._sizes.append(size)
        self._ends.append(self._ends[-1] + len(units))

    def written(self) -> None:
        """Makes what was appended readable."""
        self._units.flush()
        self._snippets.flush()

    def snippet(self, row: int) -> str:
        """Gives what to show of a row."""
        told = os.pread(self._snippets.fileno(), 2 * SNIPPET, 2 * SNIPPET * row)
        return told.decode("utf-8", "ignore").rstrip()

    def units(self, row: int) -> Units:
        """Gives the units of a row."""
        start, end = self._ends[row], self._ends[row + 1]
        return np.frombuffer(os.pread(self._units.fileno(), 4 * (end - start), 4 * start), np.uint32)

    def answers(self) -> Iterator[tuple[int, Units, int]]:
        """Yields the number, the units of the answers and the size of a shingle of each row."""
        for row in range(len(self)):
            yield row, self.units(row)[self._answers[row] :], self._sizes[row]

    def jaccard(self, one: int, other: int) -> tuple[float, int]:
        """Gives the Jaccard index of two rows' shingles, and how many shingles the smaller has."""
        if self._sizes[one] != self._sizes[other]:
            return 0.0, 0
        a, b = self._shingles(one), self._shingles(other)
        common = len(a & b)
        return common / max(1, len(a) + len(b) - common), min(len(a), len(b))

    def _shingles(self, row: int) -> set[int]:
        if row not in self._sets:
            if self._held > MOST_SHINGLES:
                self._sets, self._held = {}, 0
            self._sets[row] = set(runs(self.units(row), self._sizes[row]).tolist())
            self._held += len(self._sets[row])
        return self._sets[row]

    def close(self) -> None:
        """Gives the disk back."""
        self._units.close()
        self._snippets.close()
