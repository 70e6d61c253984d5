"""Draws the loss of a run, and how its routers share tokens out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from finetune.run import Run, metrics

BEFORE, AFTER, IDLE = "#9db4c8", "#c0392b", "#f0a58f"

MOST_SHOWN = 8
"""Times the mean load where the colours of the heat map end, and its inverse at the other end."""


def draw_loss(run: Run) -> Path:
    """Draws training and held-out loss against optimizer steps, in nats a learnt token, to loss.png."""
    from matplotlib.figure import Figure

    records = metrics.read(run.metrics)
    steps = [(r["step"], r["loss"]) for r in records if "loss" in r]
    held = [(r["step"], r["held_out_loss"]) for r in records if "held_out_loss" in r]
    figure = Figure(figsize=(7, 4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*steps, strict=True), color=BEFORE, linewidth=1.2, label="training, each step")
    if held:
        axes.plot(*zip(*held, strict=True), color=AFTER, marker="o", linewidth=1.8, label="held out")
        for (step, loss), side in ((held[0], "left"), (held[-1], "right")):
            axes.annotate(f"{loss:.3f}", (step, loss), (0, 7), textcoords="offset points", ha=side, color=AFTER)
    axes.set(xlabel="optimizer step", ylabel="loss (nats per learnt token)", title=run.name)
    axes.set_ylim(0, 1.12 * max((loss for _, loss in steps + held), default=1.0))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(run.plot)
    return run.plot


def draw_routers(run: Run) -> Path:
    """Draws router.json to router.png: loads of layers x experts before and after, each layer's skew, what moved."""
    from matplotlib.figure import Figure

    told = json.loads(run.router.read_text())
    num_layers = len(told["layers"])
    figure = Figure(figsize=(12, 3 + 0.1 * num_layers), dpi=150, layout="constrained")
    before, after, skew, moved = figure.subplots(1, 4, sharey=True, width_ratios=(3, 3, 1.3, 1.3))
    top = max(layer[when]["skew"] for layer in told["layers"] for when in ("before", "after"))
    for axes, when, title in ((before, "before", "base"), (after, "after", "after training")):
        image = _heat(axes, told, when, top)
        axes.set(title=title, xlabel="experts, the base's busiest first")
    before.set_ylabel("layer")
    bar = figure.colorbar(image, ax=[before, after], pad=0.01, extend="both" if top > MOST_SHOWN else "neither")
    bar.set_label("load / mean load (red: idle)")
    bar.set_ticks(ticks := [2.0**power for power in range(-3, 4) if 2 ** abs(power) <= image.norm.vmax])
    bar.set_ticklabels([f"{tick:g}" for tick in ticks])
    bar.minorticks_off()
    places = range(num_layers)
    for when, color, label in (("before", BEFORE, "base"), ("after", AFTER, "after")):
        skew.plot([layer[when]["skew"] for layer in told["layers"]], places, "o-", ms=3, color=color, label=label)
    skew.set(title="skew", xlabel="busiest / mean load", xlim=(0, 1.08 * top))
    skew.axvline(1, color="#999999", linewidth=0.8, linestyle=":")
    skew.legend(frameon=False, fontsize="small", loc="lower left")
    moved.barh(places, [100 * layer["rerouted"] for layer in told["layers"]], color=BEFORE)
    moved.set(title="rerouted", xlabel="% of choices")
    for axes in (skew, moved):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    tokens, of = f"{told['rows']['tokens']:,}", told["rows"]["of"]
    of_experts = f"{told['experts_per_token']} of {told['experts']} experts a token"
    figure.suptitle(f"{run.name}: what the routers choose for {tokens} tokens ({of} rows), {of_experts}")
    figure.savefig(run.router_plot)
    return run.router_plot


def _heat(axes: Any, told: dict[str, Any], when: str, top: float) -> Any:
    """Draws each expert's load over the mean of its layer; those that nobody chose stand out.

    Each layer's experts are in the order of their loads in the base: left panel sorted, right panel what moved.
    """
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm
    from numpy.ma import masked_equal

    shown = [
        [
            load * told["experts"] / sum(layer[when]["loads"])
            for _, load in sorted(zip(layer["before"]["loads"], layer[when]["loads"], strict=True), reverse=True)
        ]
        for layer in told["layers"]
    ]
    most = min(MOST_SHOWN, 2 ** max(1, math.ceil(math.log2(top))))
    colors = colormaps["Blues"].with_extremes(bad=IDLE)
    image = axes.imshow(
        masked_equal(shown, 0),
        aspect="auto",
        interpolation="nearest",
        cmap=colors,
        norm=LogNorm(1 / most, most),
    )
    axes.set_yticks(range(0, len(shown), max(1, len(shown) // 10)))
    axes.xaxis.get_major_locator().set_params(integer=True)
    return image
