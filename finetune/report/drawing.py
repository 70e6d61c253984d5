"""Where lines and dots of the page's pictures lie; the page's templates draw them as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.report.checking import is_figure
from finetune.report.telling import MINUS
from finetune.statistics import Interval

FOREST_WIDTH = 280.0
MARGIN = 10.0

CURVE_WIDTH, CURVE_HEIGHT = 1000.0, 300.0
MOST_POINTS = 500
"""Of a curve; of more steps, means of neighbours are drawn."""

LEAST = 1e-12
"""Of a span that is drawn: of a smaller one, floats have no round parts."""


@dataclass(frozen=True)
class Scale:
    """Places values between two ends."""

    low: float
    high: float
    begin: float
    end: float

    def at(self, value: float) -> float:
        """Where a value lies, to a tenth."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.begin + (self.end - self.begin) * min(max(share, 0.0), 1.0), 1)


@dataclass(frozen=True)
class Mark:
    """A row of a forest plot: a difference, its interval, and the changes that the set does not show."""

    value: float
    low: float
    high: float
    zero: float
    unseen: tuple[float, float] | None


@dataclass(frozen=True)
class Tick:
    """A place on an axis."""

    at: float
    label: str


def forest_scale(differences: Iterable[tuple[Interval, float | None]]) -> Scale:
    """Gives an axis with nothing in its middle, wide enough for all."""
    reach = max((abs(end) for each, sees in differences for end in (each.low, each.high, sees or 0.0)), default=0.0)
    reach = 1.05 * reach if reach > LEAST else 1.0
    return Scale(-reach, reach, MARGIN, FOREST_WIDTH - MARGIN)


def mark(difference: Interval, sees: float | None, scale: Scale, *, turned: bool) -> Mark:
    """Places a row.

    Args:
        difference: of two models.
        sees: the smallest change that shows.
        scale: of the plot.
        turned: whether less is better, so that better is right always.
    """
    way = -1 if turned else 1
    low, high = sorted((way * difference.low, way * difference.high))
    unseen = (scale.at(-sees), scale.at(sees)) if sees else None
    return Mark(scale.at(way * difference.value), scale.at(low), scale.at(high), scale.at(0), unseen)


def forest_ticks(scale: Scale, factor: float) -> list[Tick]:
    """Names a few differences on each side of none; the signs are those of better and worse.

    Args:
        scale: of the plot.
        factor: by which a figure is told: 100 for shares.
    """
    step = _step(scale.high * factor, 2)
    told = [number * step for number in (-2, -1, 0, 1, 2) if abs(number * step) <= scale.high * factor]
    return [Tick(scale.at(value / factor), _short(abs(value))) for value in told]


def axis(low: float, high: float, begin: float, end: float, count: int = 4) -> tuple[Scale, list[Tick]]:
    """Gives an axis over round numbers that holds both ends."""
    span = max(abs(low), abs(high))
    step = _step(next(each for each in (high - low, span, 1.0) if each > LEAST * max(span, 1.0)), count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    scale = Scale(first * step, last * step, begin, end)
    return scale, [Tick(scale.at(number * step), _short(number * step)) for number in range(first, last + 1)]


def loss_curve(records: Sequence[dict[str, Any]], steps: int) -> dict[str, Any] | None:
    """Places the losses of a training; None where there are none to draw.

    Held-out losses are points: a line from the base to the first of them would show a fall that nobody measured.
    """
    train = [(r["step"], r["loss"]) for r in records if "loss" in r and is_figure(r["loss"])]
    held = [(r["step"], r["held_out_loss"]) for r in records if is_figure(r.get("held_out_loss"))]
    if not train and not held:
        return None
    losses = [loss for _, loss in train + held]
    across, x_ticks = axis(0, max(steps, 1), 46, CURVE_WIDTH - 12, 6)
    up, y_ticks = axis(min(losses), max(losses), CURVE_HEIGHT - 30, 12)
    placed = [(across.at(step), up.at(loss), step, loss) for step, loss in held]
    return {
        "width": CURVE_WIDTH,
        "height": CURVE_HEIGHT,
        "train": _path([(across.at(step), up.at(loss)) for step, loss in _thinned(train)]),
        "points": [{"x": x, "y": y, "step": step, "loss": f"{loss:.3f}"} for x, y, step, loss in placed],
        "x_ticks": [tick for tick in x_ticks if tick.at <= CURVE_WIDTH - 12],
        "y_ticks": y_ticks,
        "thinned": _at_once(len(train)),
    }


def stacked(parts: Sequence[tuple[str, float]], width: float = 1000.0) -> list[dict[str, Any]]:
    """Lays parts end to end over a width."""
    whole = sum(value for _, value in parts) or 1.0
    begin, found = 0.0, []
    for name, value in parts:
        length = round(width * value / whole, 1)
        found.append({"name": name, "value": value, "x": round(begin, 1), "width": length, "share": value / whole})
        begin += width * value / whole
    return found


def _thinned(points: list[tuple[int, float]]) -> list[tuple[float, float]]:
    at_once = _at_once(len(points))
    groups = [points[begin : begin + at_once] for begin in range(0, len(points), at_once)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _at_once(count: int) -> int:
    """Gives how many neighbours make a point."""
    return math.ceil(count / MOST_POINTS) or 1


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{'M' if number == 0 else 'L'}{x:g} {y:g}" for number, (x, y) in enumerate(points))


def _step(span: float, count: int) -> float:
    """Gives a round step of which about so many make a span."""
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    return float(next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.75))


def _short(value: float) -> str:
    return f"{value:,.6g}".replace("-", MINUS)
