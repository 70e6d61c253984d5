"""Draws the loss of a run."""

from __future__ import annotations

from pathlib import Path

from finetune.run import Run, metrics


def draw_loss(run: Run) -> Path:
    """Draws training and held-out loss against optimizer steps, in nats a learnt token, to loss.png."""
    from matplotlib.figure import Figure

    records = metrics.read(run.metrics)
    steps = [(r["step"], r["loss"]) for r in records if "loss" in r]
    held = [(r["step"], r["held_out_loss"]) for r in records if "held_out_loss" in r]
    figure = Figure(figsize=(7, 4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*steps, strict=True), color="#9db4c8", linewidth=1.2, label="training, each step")
    if held:
        axes.plot(*zip(*held, strict=True), color="#c0392b", marker="o", linewidth=1.8, label="held out")
        for (step, loss), side in ((held[0], "left"), (held[-1], "right")):
            axes.annotate(f"{loss:.3f}", (step, loss), (0, 7), textcoords="offset points", ha=side, color="#c0392b")
    axes.set(xlabel="optimizer step", ylabel="loss (nats per learnt token)", title=run.name)
    axes.set_ylim(0, 1.12 * max((loss for _, loss in steps + held), default=1.0))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(run.plot)
    return run.plot
