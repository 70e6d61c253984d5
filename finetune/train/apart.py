"""A pack of the run's own examples against each of them alone, before the first step: who leaks, learns nothing.

A kernel that ignores the borders of a pack says nothing of it: its losses are finite and only slightly wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from finetune.errors import TrainingStopped
from finetune.experts.lora import ExpertLora
from finetune.model import causal_of, compute_device
from finetune.recipe import override
from finetune.run import Claim
from finetune.train.batches import apart, borders_in, collate
from finetune.train.rehearsal import undone
from finetune.train.trainer import ProvingTrainer

FLOOR = {"float32": 1e-4, "bfloat16": 0.02}
"""How far apart the two may be in any case, as a share of the norm.

Float32: two orders of a sum of n = 17,408 products differ by sqrt(n) * 2**-24 = 1e-5; ten times that. Bfloat16: 128
sums into the residual stream, each rounded to 2**-9, add up to sqrt(128) * 2**-9 = 0.02. What leaks is 0.1 and more.
"""

NOISE = 3
"""How many times the distance between the same examples padded side by side and alone it may be beside that.

Those are the same arithmetic in other shapes, without any border to cross: what this model makes of rounding, its
routers' near ties included.
"""

BORDER = 8
"""Tokens at the front of an example whose logits are compared: a state that leaks is forgotten later on."""

MOST = 4
"""Examples of the pack that is tried."""


def check_apart(trainer: ProvingTrainer, say: Callable[[str], None]) -> list[Claim]:
    """Compares a pack of real examples with each alone: logits after its borders, and a gradient through all layers.

    Args:
        trainer: put together, not yet begun.
        say: takes a line for the user.

    Returns:
        The claims that it makes; none where nothing is packed, or no two examples fit into a pack.

    Raises:
        TrainingStopped: the examples of the pack are not kept apart.
    """
    limit = trainer.recipe.data.max_length
    rows = trial_pack(trainer.lengths, limit) if trainer.recipe.data.packing else []
    if not rows:
        return []
    device = compute_device(trainer.model)
    with undone(trainer, device), _without_dropout(trainer.model):
        alone, side_by_side, packed = (_both(trainer, rows, lay) for lay in (_alone, _side_by_side, _packed))
    claims = []
    for what, one, beside, other in zip(("logits", "gradient"), alone, side_by_side, packed, strict=True):
        far, bound = _far(other, one), max(FLOOR[trainer.plan.dtype], NOISE * _far(beside, one))
        if not far <= bound:
            raise TrainingStopped(
                "packed examples run into one another",
                where=trainer.recipe.where("data.packing"),
                why=f"{what} of {len(rows)} of them packed and alone differ by {far:.2g} of their norm; "
                f"rounding explains {bound:.2g}",
                fix=f"begin again with {override('data.packing=false')}",
            )
        told = f"packing: distance of the {what} of {len(rows)} examples, packed and alone, as a share of the norm"
        claims.append(Claim(claim=told, measured=far, tolerance=bound, holds=True))
    figures = " and ".join(f"{claim['measured']:.1g}" for claim in claims)
    say(f"packing: {len(rows)} examples packed and alone differ by {figures} of the norm, in logits and a gradient")
    return claims


def trial_pack(lengths: Sequence[int], limit: int) -> list[int]:
    """Chooses examples that fit into one pack: up to four, as long as they can be; none where no two fit."""
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    for number in range(MOST, 1, -1):
        fitting = [row for row in order if lengths[row] <= limit // number]
        if len(fitting) >= number:
            return fitting[-number:]
    return order[:2] if sum(lengths[row] for row in order[:2]) <= limit and len(order) > 1 else []


def _both(
    trainer: ProvingTrainer, rows: list[int], lay: Callable[[ProvingTrainer, list[int]], Iterator[dict[str, Any]]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gives the logits at the front of each example, (tokens, vocabulary), and the gradient of the first layer."""
    model, causal = trainer.model, causal_of(trainer.model)
    device, name = compute_device(model), _first_trained(model)
    model.zero_grad(set_to_none=True)
    fronts = []
    for inputs in lay(trainer, rows):
        ends = inputs.pop("ends")
        inputs = {key: tensor.to(device) for key, tensor in inputs.items()}
        rounded = torch.autocast(device.type, dtype=torch.bfloat16, enabled=trainer.plan.dtype == "bfloat16")
        with rounded, torch.no_grad():
            states = causal.model(input_ids=inputs["input_ids"], use_cache=False, **borders_in(inputs))[0]
            fronts += [causal.lm_head(states[row, first : min(first + BORDER, last)]) for row, first, last in ends]
        trainer.losses(model, inputs)[0].nll.sum().backward()
    gradient = dict(model.named_parameters())[name].grad
    return torch.cat(fronts).float(), gradient.float().clone()


def _alone(trainer: ProvingTrainer, rows: list[int]) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield _laid(trainer, [row]) | {"ends": [(0, 0, trainer.lengths[row])]}


def _side_by_side(trainer: ProvingTrainer, rows: list[int]) -> Iterator[dict[str, Any]]:
    yield _laid(trainer, rows) | {"ends": [(place, 0, trainer.lengths[row]) for place, row in enumerate(rows)]}


def _packed(trainer: ProvingTrainer, rows: list[int]) -> Iterator[dict[str, Any]]:
    each = [_laid(trainer, [row]) for row in rows]
    lengths = [trainer.lengths[row] for row in rows]
    starts = [sum(lengths[:place]) for place in range(len(rows))]
    ends = [(0, start, start + length) for start, length in zip(starts, lengths, strict=True)]
    laid = {name: torch.cat([one[name] for one in each], dim=1) for name in each[0]}
    yield laid | apart(lengths, torch.device("cpu")) | {"ends": ends}


def _laid(trainer: ProvingTrainer, rows: list[int]) -> dict[str, torch.Tensor]:
    batch = collate([{"index": row} for row in rows], examples=trainer.examples, pad=0)
    del batch["index"]
    return batch


def _first_trained(model: Any) -> str:
    """Names a trained weight of the lowest layer that a gradient reaches from all layers above.

    An adapter begins with B = 0, so that A gets none yet.
    """
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return next((name for name in trained if "lora_B" in name), trained[0])


def _far(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """In training mode, where layers are recomputed, but for dropout, which would draw others for each layout."""
    mode = model.training
    model.train()
    for module in model.modules():
        if isinstance(module, (nn.Dropout, ExpertLora)):
            module.training = False
    try:
        yield
    finally:
        model.train(mode)
