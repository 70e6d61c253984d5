"""Finds a model's parts, whether adapters wrap it or not."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel


def causal_of(model: Any) -> Any:
    """Gives the causal language model itself: the text model under `.model`, the head under `.lm_head`."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def compute_device(model: Any) -> torch.device:
    """Gives the device that the layers run on, which the embedding need not lie on."""
    device: torch.device = causal_of(model).model.norm.weight.device
    return device
