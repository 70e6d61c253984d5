"""Many tasks at once: one in twenty looks changed by chance, which is made up for."""

from __future__ import annotations

from collections.abc import Sequence


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Gives each p as it is among the others, so that all of those under 0.05 are true changes in 95 of 100 reports.

    Args:
        ps: of the tasks; those that have none are not counted.

    Source: Holm, Scandinavian Journal of Statistics 6, 1979, p. 65.
    """
    ordered = sorted((p, number) for number, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    highest = 0.0
    for passed, (p, number) in enumerate(ordered):
        highest = max(highest, min(1.0, (len(ordered) - passed) * p))
        adjusted[number] = highest
    return adjusted
