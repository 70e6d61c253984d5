"""Weights under ZeRO-3: every process keeps a share of each, and they are made whole while a module works with them.

What stays whole in every process: weights that are small; those that another module than their own reads, where
DeepSpeed does not notice it; and trained ones but those of routed experts, which are many. What lies in buffers
DeepSpeed does not see: routed experts' frozen weights, a quantised head, an embedding on the host.

Source: deepspeed 0.19.8, runtime/zero/partition_parameters.py and parameter_offload.py; transformers 5.23,
Qwen3_5GatedDeltaNet.forward, which reads conv1d.weight; finetune/model/losses.py, which reads lm_head.weight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from deepspeed.runtime.zero.partition_parameters import GatheredParameters, ZeroParamStatus, is_zero_param
from deepspeed.utils import safe_set_local_optimizer_state
from torch import nn

from finetune.model import bytes_by_dtype, family_of

SMALL = 10_000
"""Numbers of a weight that is not worth sharing out."""

READ_BY_OTHERS = (".conv1d.weight", "lm_head.weight")


def settings(zero: int) -> dict[str, Any]:
    """Gives what DeepSpeed is told of a stage besides its number."""
    return {"stage3_param_persistence_threshold": SMALL} if zero == 3 else {}


def keep_whole(engine: Any, model: Any) -> None:
    """Gathers what stays whole, for good: DeepSpeed gathers it anew after each step; every process calls it."""
    persistent = engine.optimizer.persistent_parameters
    for name, parameter in model.named_parameters():
        trained = parameter.requires_grad and family_of(name) != "experts"
        if not parameter.ds_persist and (trained or name.endswith(READ_BY_OTHERS)):
            parameter.ds_persist = True
            persistent.append(parameter)
    persistent[0].all_gather(persistent)


@contextmanager
def whole(parameters: Iterable[Any]) -> Iterator[None]:
    """Makes weights whole meanwhile; every process calls it."""
    with GatheredParameters(_shared(parameters)):
        yield


def make_whole(parameters: Iterable[Any]) -> None:
    """Makes weights whole, until a module works with them the next time; every process calls it."""
    if shared := _shared(parameters):
        shared[0].all_gather(shared)


def _shared(parameters: Iterable[Any]) -> list[Any]:
    """Lists those of which this process has its share alone."""
    return [p for p in parameters if is_zero_param(p) and p.ds_status is ZeroParamStatus.NOT_AVAILABLE]


def held(parameter: Any) -> torch.Tensor:
    """Gives what this process has of a weight: itself, or its share."""
    share: torch.Tensor = parameter.ds_tensor if is_zero_param(parameter) else parameter.detach()
    return share


def held_bytes(model: Any) -> dict[str, int]:
    """Adds up the bytes that this process holds of a model between steps, by dtype."""
    total = Counter(bytes_by_dtype(model))
    for parameter in model.parameters():
        if is_zero_param(parameter):
            share = parameter.ds_tensor  # which DeepSpeed keeps beside a weight that is whole, too
            extra = 0 if parameter.ds_persist else parameter.numel()  # of one that was made whole to be written down
            total[str(share.dtype).removeprefix("torch.")] += (share.numel() - extra) * share.element_size()
    return dict(sorted(total.items()))


def set_state(parameter: Any, value: torch.Tensor, state: str, *, place: int) -> None:
    """Sets this process's share of a state of the optimizer.

    DeepSpeed's own function for whole states fails where processes do not divide the numbers evenly.

    Args:
        parameter: whose state it is.
        value: the whole state, shaped as the weight.
        state: its name.
        place: of this process.
    """
    size = parameter.ds_tensor.numel()
    mine = value.flatten()[place * size : (place + 1) * size]
    safe_set_local_optimizer_state(parameter, nn.functional.pad(mine, (0, size - len(mine))), state)
