"""Prints how far levers and experts leave training from the plain stack: the figures that the gate's tests assert.

    scripts/prove parity

Runs the tests of levers, of the chunked loss, of experts and of whole trainings over 1, 2 and 4 processes, and shows
of each kind the figure nearest to its bound. Relative: a gradient's by its norm, an answer's by its largest number.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TESTS = [
    Path(__file__).parents[1] / "integration" / f"test_{name}.py"
    for name in ("levers", "levers_head", "experts", "experts_parallel", "experts_training")
]


class Figures:
    """Gathers what `within` noted: figure and bound of each kind, the ones nearest to their bound, and how many."""

    def __init__(self) -> None:
        self.worst: dict[str, tuple[float, float]] = {}
        self.counts: dict[str, int] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call":
            return
        for what, (figure, bound) in report.user_properties:
            self.counts[what] = self.counts.get(what, 0) + 1
            self.worst[what] = max(
                self.worst.get(what, (0.0, bound)), (figure, bound), key=lambda pair: pair[0] / pair[1]
            )


def main() -> int:
    """Prints a line for each kind; 0 if every test passed."""
    figures = Figures()
    code = pytest.main([*map(str, TESTS), *sys.argv[1:]], plugins=[figures])
    print(f"\n{'':<87}{'figures':>8}{'nearest':>10}{'bound':>10}")
    for what, (figure, bound) in figures.worst.items():
        print(f"{what:<87}{figures.counts[what]:>8}{figure:>10.1e}{bound:>10.1e}")
    return int(code)


if __name__ == "__main__":
    raise SystemExit(main())
