"""Compares what two stacks learn from the same batch: loss, norm of the gradients, and each gradient's direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from bench.stacks import Loss
from bench.weights import redraw_adapters, trained_of

GOAL = 0.999
"""Least cosine between the gradients of one tensor under two stacks."""


@dataclass(frozen=True)
class Learnt:
    """The loss of a batch, and every gradient, in float32 on the host."""

    loss: float
    gradients: dict[str, torch.Tensor]


def learn(model: Any, loss_of: Loss, ids: torch.Tensor) -> Learnt:
    """Runs one forward and backward from adapters as they stand."""
    for parameter in trained_of(model).values():
        parameter.grad = None
    loss = loss_of(ids)
    loss.backward()
    gradients = {}
    for name, parameter in trained_of(model).items():
        assert parameter.grad is not None, f"{name} got no gradient"
        gradients[name] = parameter.grad.float().cpu()
        parameter.grad = None
    return Learnt(float(loss.detach()), gradients)


def learn_afresh(model: Any, loss_of: Loss, ids: torch.Tensor, seed: int) -> Learnt:
    """Does so from adapters that are the same for every stack; the dtype that a stack casts them to is kept."""
    kept = [p.dtype for p in trained_of(model).values()]
    redraw_adapters(model, seed)
    for parameter, dtype in zip(trained_of(model).values(), kept, strict=True):
        parameter.data = parameter.data.to(dtype)
    return learn(model, loss_of, ids)


def compare(told: Learnt, truth: Learnt) -> dict[str, Any]:
    """Tells how far one is from the other, as it stands in results.json.

    Raises:
        ValueError: they did not learn the same tensors.
    """
    if told.gradients.keys() != truth.gradients.keys():
        raise ValueError("the stacks trained different tensors")
    cosines = {
        name: float(torch.cosine_similarity(told.gradients[name].flatten(), gradient.flatten(), dim=0))
        for name, gradient in truth.gradients.items()
    }
    worst = min(cosines, key=lambda name: cosines[name])
    norm, true_norm = _norm(told), _norm(truth)
    return {
        "loss": told.loss,
        "other_loss": truth.loss,
        "loss_off": abs(told.loss - truth.loss) / abs(truth.loss),
        "norm_ratio": norm / true_norm,
        "least_cosine": cosines[worst],
        "least_cosine_of": worst,
        "mean_cosine": sum(cosines.values()) / len(cosines),
        "num_tensors": len(cosines),
        "num_below_goal": sum(cosine < GOAL for cosine in cosines.values()),
    }


def _norm(learnt: Learnt) -> float:
    return float(torch.stack([gradient.norm() for gradient in learnt.gradients.values()]).norm())
