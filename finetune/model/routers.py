"""What the routers of a mixture of experts choose for given tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from finetune.experts.loads import expert_blocks, watched
from finetune.model.parts import causal_of, compute_device


@torch.no_grad()
def chosen_experts(model: Any, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Passes rows through a model one by one, without dropout, and notes what its routers choose.

    Where experts are spread over processes, every process calls it with the same rows.

    Args:
        model: a mixture of experts, with or without adapters.
        rows: ids of each.

    Returns:
        (layers, tokens of all rows, chosen) int16, on the CPU.
    """
    blocks, device = expert_blocks(model), compute_device(model)
    seen: list[list[torch.Tensor]] = [[] for _ in blocks]
    was_training = model.training
    model.eval()
    with (
        watched(blocks, lambda layer, index: seen[layer].append(index.to(torch.int16))),
        torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"),
    ):
        for row in rows:
            causal_of(model).model(input_ids=torch.tensor([row], device=device), use_cache=False)
    model.train(was_training)
    return torch.stack([torch.cat(layer) for layer in seen]).cpu()
