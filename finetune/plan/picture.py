"""Draws a plan's memory, part by part, against the card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune.plan.record import Plan, levers_of

FORMATS = (".png", ".svg")
GIB = 2**30

COLOURS = {
    "linear layers in NF4": "#33526e",
    "linear layers": "#33526e",
    "trained weights": "#33526e",
    "routed experts": "#47709a",
    "other layers": "#5b83a6",
    "embedding": "#8fb0cb",
    "head": "#b9cfe0",
    "adapters": "#f0c870",
    "gradients": "#e0983c",
    "optimizer states": "#b8642f",
    "optimizer's temporaries": "#8f4a22",
    "CUDA context": "#8c8c8c",
    "inputs to recompute from": "#2f6b3f",
    "activations of one layer": "#5d9a6b",
    "matrices made meanwhile": "#8dbb97",
    "loss": "#5d9a6b",
    "vocabulary's gradient": "#a8c9ae",
    "gaps between blocks": "#cfe3d2",
}
"""Blues for weights, warm colours for what is trained, greens for what comes and goes."""


PLAIN: dict[str, Any] = {"parse_math": False}
"""Dollars in a name are dollars."""


def draw_memory(plan: Plan, file: Path) -> None:
    """Draws one bar of all parts at the peak, and the line of what the device can hold, into a PNG or SVG file.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    left = 0.0
    for name, size in plan.parts.items():
        colour = COLOURS[name]
        axes.barh(0, size / GIB, left=left, height=0.55, color=colour, edgecolor="white", linewidth=0.8)
        axes.plot([], [], "s", color=colour, markersize=8, label=f"{name}  {size / GIB:.2f}")
        left += size / GIB
    room = plan.gpu_bytes / GIB
    if left > room:
        axes.barh(0, left - room, left=room, height=0.55, fill=False, hatch="///", edgecolor="#b02a2a", linewidth=0)
    axes.axvline(room, color="#b02a2a", linewidth=1.6)
    told = f"{plan.gpu or 'this machine'} gives {room:.1f} GiB"
    axes.annotate(
        told, (room, 0.38), (-5, 0), textcoords="offset points", color="#b02a2a", ha="right", fontsize=9, **PLAIN
    )
    choices = plan.choices
    verdict = f"fits, {room - left:.1f} to spare" if plan.fits else f"{left - room:.1f} too much"
    title = f"{plan.base}, {plan.method}, {choices.micro_batch} x {plan.length:,} tokens: {left:.1f} GiB, {verdict}"
    axes.set_title(
        f"{title}\n{levers_of(plan)}; planned, not measured", loc="left", fontsize=9.5, linespacing=1.5, **PLAIN
    )
    axes.set(xlabel="GiB at the peak", xlim=(0, 1.06 * max(room, left)), ylim=(-0.4, 0.5), yticks=[])
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8, handletextpad=0.2)
    figure.savefig(file)
