"""Finds a model's parts, whether adapters wrap it or not."""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Params4bit
from peft import PeftModel


def causal_of(model: Any) -> Any:
    """Gives the causal language model itself: the text model under `.model`, the head under `.lm_head`."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def compute_device(model: Any) -> torch.device:
    """Gives the device that the layers run on, which the embedding need not lie on."""
    device: torch.device = causal_of(model).model.norm.weight.device
    return device


def first_not_finite(model: Any) -> str:
    """Names the first weight of a model that holds a number that is not finite; nothing if none does.

    A weight in 4 bits is looked at as it multiplies: its scales may hold what its bits cannot.
    """
    for name, weight in model.state_dict(keep_vars=True).items():
        if isinstance(weight, Params4bit):
            weight = dequantize_4bit(weight.data, weight.quant_state)
        if weight.is_floating_point() and not torch.isfinite(weight).all():
            return str(name)
    return ""
