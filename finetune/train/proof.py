"""What a finished training claims, each claim with the figure that was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from finetune.data import Dataset
from finetune.errors import ProofFailed
from finetune.model import adapter_tensors, differing_weights, kernels
from finetune.plan import Plan
from finetune.recipe import Recipe
from finetune.run import Claim, Run, metrics


def claims(run: Run, recipe: Recipe, plan: Plan, dataset: Dataset, trainer: Any, artifact: Path) -> list[Claim]:
    """Gathers the claims of a training, from what it left on disk wherever that is possible.

    Raises:
        ProofFailed: fewer steps were taken than planned, or what was written is not what was trained.
    """
    taken = trainer.state.global_step
    _demand(taken == plan.steps, "not every planned step was taken", f"{taken} of {plan.steps}", run)
    records = metrics.read(run.metrics)
    found = [
        _claim("optimizer steps taken", len({record["step"] for record in records if "loss" in record}), plan.steps),
        *_adapters(plan, trainer.model),
        _claim("trainable parameters", _trainable(trainer.model), plan.trainable_parameters),
        _claim("learnt tokens in an epoch", dataset.counts.learnt_tokens),
        *(_claim(f"bytes held as {dtype}", size) for dtype, size in trainer.held_bytes().items()),
        *(_claim(f"kernel of {name}", kernel) for name, kernel in kernels(plan.device).items()),
    ]
    for record in records:
        if "gradients" in record:
            seen = record["gradients"]
            alive, dead = sum(seen["alive"].values()), sum(seen["dead"].values())
            found.append(_claim(f"{seen['of']} with a gradient at step {record['step']}", alive, alive + dead))
    held = {record["step"]: record["held_out_loss"] for record in records if "held_out_loss" in record}
    if {0, taken} <= held.keys():  # of lost records nothing is claimed
        found.append(_claim("held-out loss of the base, nats a token", held[0]))
        found.append(_claim("held-out loss after training, nats a token", held[taken]))
        fell = held[0] - held[taken]
        found.append({"claim": "held-out loss fell by", "measured": fell, "tolerance": None, "holds": fell > 0})
    found.append(_read_back(run, plan, trainer, artifact))
    return found


def _claim(claim: str, measured: Any, expected: Any = None) -> Claim:
    holds = expected is None or measured == expected
    return {"claim": claim, "measured": measured, "tolerance": expected, "holds": holds}


def _trainable(model: Any) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _adapters(plan: Plan, model: Any) -> list[Claim]:
    if plan.method == "full":
        return []
    adapted = sum(".lora_A" in name and p.requires_grad for name, p in model.named_parameters())
    return [_claim("layers with an adapter", adapted, sum(plan.num_targets.values()))]


def _read_back(run: Run, plan: Plan, trainer: Any, artifact: Path) -> Claim:
    """Reads what was written and compares it bit for bit with what was trained."""
    if plan.method == "full":
        away = differing_weights(trainer.model, artifact)
        why = f"{len(away)} tensors differ, first {away[0]}" if away else ""
        _demand(not away, "the weights on disk are not those that were trained", why, run)
        return _claim("tensors read back bit-identical", sum(1 for _ in trainer.model.parameters()))
    saved, trained = load_file(artifact / "adapter_model.safetensors"), adapter_tensors(trainer.model)
    same = saved.keys() == trained.keys() and all(torch.equal(saved[name], trained[name]) for name in saved)
    finite = all(bool(torch.isfinite(tensor).all()) for tensor in saved.values())
    _demand(same and finite, "the adapter on disk is not the one that was trained", str(artifact), run)
    moved = sum(bool(t.any()) for n, t in saved.items() if "lora_B" in n)
    _demand(moved > 0, "no adapter moved", "every lora_B is still zero", run)
    planned = 2 * sum(plan.num_targets.values()) + plan.num_routers
    return _claim("adapter tensors read back bit-identical", len(saved), planned)


def _demand(holds: bool, what: str, why: str, run: Run) -> None:
    if not holds:
        raise ProofFailed(what, where=str(run.path), why=why)
