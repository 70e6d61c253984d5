"""Whether plain transformers loads a whole model under both of its classes, and it answers as it was tuned to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

IDS = torch.arange(3, 60)[None]
"""A prompt, (1, tokens)."""


@torch.no_grad()
def answer(model: Any) -> torch.Tensor:
    """Gives the logits of the prompt, (1, tokens, vocabulary)."""
    logits: torch.Tensor = model.eval()(input_ids=IDS).logits
    return logits


def check_answers(merged: Path, base: Path, tuned: Any) -> None:
    """Asserts that a merged folder loads without a key too many or too few, and answers as the tuned model does."""
    expected, alone = answer(tuned), answer(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32))
    for kind in (AutoModelForCausalLM, AutoModelForImageTextToText):
        model, loading = kind.from_pretrained(merged, dtype=torch.float32, output_loading_info=True)
        assert not loading["missing_keys"]
        assert not loading["unexpected_keys"]
        # rounding to 8 bits; the base is ten times as far or more
        assert (answer(model) - expected).abs().mean() < 0.1 * (alone - expected).abs().mean()
