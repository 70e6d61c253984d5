"""Draws a plan's memory, part by part, against the card."""

from __future__ import annotations

from pathlib import Path

from finetune.plan.record import Plan

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
    "layer inputs": "#2f6b3f",
    "one layer": "#5d9a6b",
    "one matrix": "#8dbb97",
    "loss": "#5d9a6b",
    "gaps": "#cfe3d2",
}
"""Blues for weights, warm colours for what is trained, greens for what comes and goes."""


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
    axes.axvline(room, color="#b02a2a", linewidth=1.6)
    axes.annotate(f"{room:.1f} GiB", (room, 0.36), (-4, 0), textcoords="offset points", color="#b02a2a", ha="right")
    choices = plan.choices
    verdict = "fits" if plan.fits else "does not fit"
    axes.set_title(
        f"{plan.base}, {plan.method}, {choices.micro_batch} x {plan.length:,} tokens on {plan.gpu or 'the host'}: "
        f"{left:.1f} GiB, {verdict}",
        loc="left",
        fontsize=10,
    )
    axes.set(xlabel="GiB at the peak", xlim=(0, 1.06 * max(room, left)), ylim=(-0.4, 0.5), yticks=[])
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8, handletextpad=0.2)
    figure.savefig(file)
