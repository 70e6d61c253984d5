"""Gathers what is wrong with rows: the first few of a kind are told, all are counted, none is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from finetune.data.shapes.proposing import OF_THE_FILE
from finetune.errors import DataError, Problem

SHOWN_PROBLEMS, SHOWN_OF_A_KIND = 20, 3


class Problems:
    """What is wrong with the rows of some files."""

    def __init__(self) -> None:
        self.shown: list[Problem] = []
        self.kinds: Counter[str] = Counter()

    def add(self, found: Iterable[Problem]) -> None:
        """Takes more; of what is wrong with a whole file one is shown, of what is wrong with rows three of a kind."""
        for problem in found:
            self.kinds[problem.what] += 1
            most = 1 if problem.what in OF_THE_FILE else SHOWN_OF_A_KIND
            if len(self.shown) < SHOWN_PROBLEMS and self.kinds[problem.what] <= most:
                self.shown.append(problem)

    def check(self, good: int) -> None:
        """Refuses to go on with a row that cannot be learnt from.

        Args:
            good: rows that can.

        Raises:
            DataError: there is one; the first three of a kind are told, twenty in all, and the others counted.
        """
        if not self.kinds:
            return
        told = list(self.shown)
        if more := self.kinds.total() - len(told):
            told.append(Problem(f"and {more:,} more problems; {good:,} rows are good"))
        raise DataError.of(told)
