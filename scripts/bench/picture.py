"""Draws a benchmark: predicted against measured memory, tokens a second, and the longest context of each stack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from bench.stacks import TRL

GIB = 2**30
GREY = "#999999"
PALETTE = tuple(f"C{number}" for number in range(10))
"""Of our own stack's levers; trl is black."""
NOTHING: dict[str, Any] = {"ha": "center", "va": "center", "color": GREY}


def draw(told: dict[str, Any], file: Path) -> None:
    """Draws what results hold; a panel without figures says so."""
    figure = Figure(figsize=(15, 5), layout="constrained")
    memory, speed, longest = figure.subplots(1, 3)
    colours = _colours(told)
    _memory(memory, told, colours)
    _speed(speed, told, colours)
    _longest(longest, told, colours)
    names = [Line2D([], [], color=colour, marker="o", label=name) for name, colour in colours.items()]
    if names:
        figure.legend(handles=names, loc="outside lower center", ncols=6, frameon=False)
    where = told["conditions"]["gpu"] or "a CPU"
    figure.suptitle(f"{told['base'].get('name', 'nothing')} on {where}, {told['started'][:10]}")
    figure.savefig(file, dpi=120)


def _colours(told: dict[str, Any]) -> dict[str, str]:
    """One colour a stack, the same in every panel."""
    names = dict.fromkeys(each["stack"] for each in [*told["cells"], *told["longest"]])
    ours = [name for name in names if not name.startswith(TRL)]
    colours = {name: PALETTE[number % len(PALETTE)] for number, name in enumerate(ours)}
    return {name: colours.get(name, "black") for name in names}


def _memory(axes: Axes, told: dict[str, Any], colours: dict[str, str]) -> None:
    axes.set(title="Peak of tensors", xlabel="measured GiB", ylabel="predicted GiB")
    points = [c for c in told["cells"] if c["ratio"]]
    if not points:
        axes.text(0.5, 0.5, "no GPU counted bytes", transform=axes.transAxes, **NOTHING)
        return
    for cell in points:
        across, up = (cell[name]["allocated_bytes"] / GIB for name in ("measured", "predicted"))
        axes.plot(across, up, "o", color=colours[cell["stack"]])
    ends = [f(cell["measured"]["allocated_bytes"] / GIB for cell in points) for f in (min, max)]
    axes.plot(ends, ends, color=GREY, linewidth=1)
    axes.fill_between(ends, [0.97 * end for end in ends], [1.03 * end for end in ends], color=GREY, alpha=0.25)
    axes.annotate("± 3 %", (ends[1], 1.03 * ends[1]), color=GREY, ha="right", va="bottom")


def _speed(axes: Axes, told: dict[str, Any], colours: dict[str, str]) -> None:
    axes.set(title="Speed", xlabel="tokens of the example", ylabel="tokens a second")
    cells = [cell for cell in told["cells"] if cell["times"]]
    if not cells:
        axes.text(0.5, 0.5, "nothing was timed", transform=axes.transAxes, **NOTHING)
        return
    for stack, colour in colours.items():
        line = sorted((c["tokens"], c["times"]["tokens_per_second"]) for c in cells if c["stack"] == stack)
        if line:
            axes.plot(*zip(*line, strict=True), marker="o", color=colour)
    ticks = sorted({cell["tokens"] for cell in cells})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{t // 1024}k" if t >= 1024 else str(t) for t in ticks])
    axes.set_ylim(bottom=0)


def _longest(axes: Axes, told: dict[str, Any], colours: dict[str, str]) -> None:
    axes.set(title="Longest context (bars: found; lines: predicted)", xlabel="tokens")
    if not told["longest"]:
        axes.text(0.5, 0.5, "not looked for", transform=axes.transAxes, **NOTHING)
        return
    for place, each in enumerate(told["longest"]):
        found = each["at_least"] if each["tokens"] is None else each["tokens"]
        at_least = each["tokens"] is None or found >= each["most_tokens"]
        axes.barh(place, found, color=colours[each["stack"]], alpha=0.4 if at_least else 0.9)
        predicted = each["predicted_tokens"]
        if predicted is not None:
            axes.plot([predicted] * 2, [place - 0.4, place + 0.4], color="black")
        axes.text(max(found, predicted or 0), place, f" {'≥ ' if at_least else ''}{found:,}", va="center")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_yticks(range(len(told["longest"])), [each["stack"] for each in told["longest"]])
    axes.invert_yaxis()
    axes.margins(x=0.2)
