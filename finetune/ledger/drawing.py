"""Draws a ledger: each step's loss, between those of base and tuned model, and the share of the tuning it keeps."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from finetune.export.quality import size
from finetune.run import atomic, outputs

BASE, TUNED, OTHER = "#9db4c8", "#c0392b", "#34495e"


def label(line: dict[str, Any]) -> str:
    """Names a step."""
    if line["name"] == "gguf":
        return f"GGUF {line['weights']}"
    return f"{line['name']} ({line['weights']})"


def draw(told: dict[str, Any], file: Path) -> None:
    """Draws the steps from above to below.

    Args:
        told: the ledger.
        file: the picture.
    """
    from matplotlib.figure import Figure

    lines = [line for line in told["steps"] if "loss" in line]
    figure = Figure(figsize=(9, 1.5 + 0.42 * len(lines)), dpi=150, layout="constrained")
    losses, shares = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for place, line in enumerate(lines):
        color = {"base": BASE, **dict.fromkeys(outputs.LEARNT, TUNED)}.get(line["name"], OTHER)
        loss, kept = line["loss"], line["kept"]
        losses.plot([loss["low"], loss["high"]], [place, place], color=color, linewidth=2, alpha=0.5)
        losses.plot(loss["value"], place, "o", color=color)
        losses.annotate(f"{loss['value']:.4f}", (loss["value"], place), (0, 6), textcoords="offset points", ha="center")
        if kept and line["name"] != "base":
            value, low, high = (100 * kept[key] for key in ("value", "low", "high"))
            shares.barh(place, value, color=color, height=0.5, alpha=0.85)
            shares.plot([low, high], [place, place], color="black", linewidth=1)
            shares.annotate(f"{value:.2f} %", (max(value, high, 0), place), (5, -4), textcoords="offset points")
    names = [f"{label(line)}\n{size(line['bytes'])}" for line in lines]
    losses.set_yticks(range(len(lines)), names, fontsize="small")
    losses.invert_yaxis()
    losses.margins(x=0.1, y=0.12)
    losses.set(xlabel="held-out loss (nats per learnt token)")
    shares.set(xlabel="of the tuning's effect that it keeps", xlim=(0, 135))
    shares.set_xticks(range(0, 101, 25), [f"{share} %" for share in range(0, 101, 25)])
    for axes in (losses, shares):
        axes.grid(alpha=0.25, axis="x")
        axes.spines[["top", "right"]].set_visible(False)
    shares.tick_params(left=False)
    examples = told["examples"]
    figure.suptitle(f"{told['run']}: {examples['scored']} held-out examples, {examples['learnt']:,} learnt tokens")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    atomic.write_bytes(file, drawn.getvalue())
