"""The report on a mixture's routers: how they share out the same rows before the first step and after the last.

The rows are held-out ones if there are any, else the first of training. What the base chose is kept in the run's
folder, so that a resumed run compares with the base too. A dense base has none of this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from finetune.atomic import write_bytes, write_json
from finetune.data import Dataset
from finetune.experts.loads import Loads, expert_blocks, rerouted
from finetune.model import chosen_experts
from finetune.run import Claim, Run
from finetune.train.plot import draw_routers
from finetune.train.trainer import ProvingTrainer

MOST_TOKENS = 4096
"""Of the rows that are looked at; 40 layers' choices of 8 experts are then 2.5 MiB."""

CHOICES = "choices"
"""The one tensor of the base's file, (layers, tokens, chosen) int16."""


def note_base(run: Run, trainer: ProvingTrainer, dataset: Dataset) -> None:
    """Writes down what the routers choose before the first step, where an adapter still adds nothing.

    Every process calls it.
    """
    if trainer.load_counter is None:
        return
    choices = chosen_experts(trainer.model, rows_looked_at(dataset)[1])
    if trainer.processes.first:
        write_bytes(run.router_base, save({CHOICES: choices}))


def report(run: Run, trainer: ProvingTrainer, dataset: Dataset, say: Callable[[str], None]) -> list[Claim]:
    """Compares with what the base chose: writes router.json and router.png, says it in a line, gives the claims.

    Every process calls it, at the end of training. Of a base that was not written down, or was removed, nothing is
    claimed.
    """
    if trainer.load_counter is None:
        return []
    of, rows = rows_looked_at(dataset)
    choices = chosen_experts(trainer.model, rows)
    if not trainer.processes.first:
        return []
    base = _of_base(run, choices, _num_experts(trainer))
    if base is None:
        say(f"no report on the routers: {run.router_base.name} is gone or damaged, and with it what the base chose")
        return []
    told = compared(base, choices, _num_experts(trainer))
    write_json(run.router, {"rows": {"of": of, "rows": len(rows), "tokens": choices.shape[1]}, **told})
    draw_routers(run)
    say(_in_a_line(told["summary"]))
    return _claims(told["summary"])


def _of_base(run: Run, choices: torch.Tensor, num_experts: int) -> torch.Tensor | None:
    """Reads what the base chose for the same tokens; None where that is not there any more."""
    try:
        base = load_file(run.router_base)[CHOICES]
    except (OSError, SafetensorError, KeyError):
        return None
    like = base.shape == choices.shape and base.dtype == choices.dtype
    return base if like and bool(((base >= 0) & (base < num_experts)).all()) else None


def rows_looked_at(dataset: Dataset, most: int = MOST_TOKENS) -> tuple[str, list[list[int]]]:
    """Gives which rows they are, held out if there are any, and their ids; the last is cut where tokens are enough."""
    of, examples = ("held-out", dataset.held_out) if dataset.held_out else ("training", dataset.train)
    rows: list[list[int]] = []
    left = most
    for example in examples:
        if left:
            rows.append(list(example.ids[:left]))
            left -= len(rows[-1])
    return of, rows


def compared(base: torch.Tensor, now: torch.Tensor, num_experts: int) -> dict[str, Any]:
    """Makes the report of two sets of choices for the same tokens.

    Args:
        base: (layers, tokens, chosen), of the base.
        now: the same, after training.
        num_experts: of a layer.
    """
    before, after = Loads.of(base, num_experts), Loads.of(now, num_experts)
    both = {"before": before, "after": after}
    columns = {name: zip(loads.counts.tolist(), loads.skew, loads.idle, strict=True) for name, loads in both.items()}
    layers: list[dict[str, Any]] = [
        {
            "rerouted": moved,
            "load_drift": drift,
            **{
                name: dict(zip(("loads", "skew", "idle"), next(column), strict=True))
                for name, column in columns.items()
            },
        }
        for moved, drift in zip(rerouted(now, base), after.drift(before), strict=True)
    ]
    summary: dict[str, Any] = {
        name: {
            "skew": sum(loads.skew) / len(layers),
            "skew_max": max(loads.skew),
            "idle": sum(loads.idle),
        }
        for name, loads in both.items()
    }
    summary |= {key: sum(layer[key] for layer in layers) / len(layers) for key in ("rerouted", "load_drift")}
    summary["experts"] = num_experts * len(layers)
    return {"experts": num_experts, "experts_per_token": base.shape[2], "summary": summary, "layers": layers}


def _num_experts(trainer: ProvingTrainer) -> int:
    experts: Any = expert_blocks(trainer.model)[0].get_submodule("experts")
    return int(experts.num_experts)


def _in_a_line(summary: dict[str, Any]) -> str:
    before, after = summary["before"], summary["after"]
    return (
        f"routers: {summary['rerouted']:.1%} of the choices go to other experts than the base's; "
        f"busiest expert over the mean {before['skew']:.2f} -> {after['skew']:.2f} "
        f"(worst layer {before['skew_max']:.2f} -> {after['skew_max']:.2f}); "
        f"idle {before['idle']:,} -> {after['idle']:,} of {summary['experts']:,}"
    )


def _claims(summary: dict[str, Any]) -> list[Claim]:
    before, after = summary["before"], summary["after"]
    told: dict[str, Any] = {
        "routers: share of choices that go to other experts than the base's": summary["rerouted"],
        "routers: share of load that moved to other experts": summary["load_drift"],
    }
    for when, what in (("of the base", before), ("after training", after)):
        told[f"routers: busiest expert over the mean, {when}, mean of the layers"] = what["skew"]
        told[f"routers: busiest expert over the mean, {when}, worst layer"] = what["skew_max"]
        told[f"routers: idle experts {when}, of {summary['experts']:,}"] = what["idle"]
    return [{"claim": claim, "measured": figure, "tolerance": None, "holds": True} for claim, figure in told.items()]
