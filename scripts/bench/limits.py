"""Finds the longest context that fits, by trying."""

from __future__ import annotations

from collections.abc import Callable


def bisect_longest(fits: Callable[[int], bool], low: int, high: int, step: int) -> int:
    """Gives the largest multiple of `step` from `low` to `high` that fits; 0 if none does.

    What fits is taken to fit in every smaller size. `fits` is asked about no size twice.
    """
    least, most = -(-low // step), high // step
    good, bad = least - 1, most + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        if fits(middle * step):
            good = middle
        else:
            bad = middle
    return good * step if good >= least else 0


def find_longest(fits: Callable[[int], bool], guess: int, *, step: int, most: int) -> int:
    """Gives the largest multiple of `step` up to `most` that fits; 0 if none does.

    A good guess saves most of the trials, and they are long ones: the distance from it doubles until one size fits
    and another does not, and what lies between is bisected.

    Args:
        fits: tries a size; is asked about none twice.
        guess: where to begin.
        step: how exact the answer shall be.
        most: where to end.
    """
    good, bad = 0, most // step + 1
    tried = min(max(guess // step, 1), most // step)
    distance = max(1, tried // 16)
    while bad - good > 1:
        if fits(tried * step):
            good = tried
        else:
            bad = tried
        if good and bad <= most // step:
            break
        tried = min(good + distance, most // step) if good else max(bad - distance, 1)
        distance *= 2
    return max(good * step, bisect_longest(fits, (good + 1) * step, (bad - 1) * step, step))
