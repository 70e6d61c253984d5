"""The loss of each example on the tokens that it teaches, without ever making logits for the others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from finetune.data import Example

CHUNK = 1024
"""Positions whose logits exist at one time."""


@dataclass(frozen=True)
class Score:
    """Of a set of examples, in their order."""

    losses: tuple[float, ...]
    """Sum of the negative log-likelihood, in nats, of each example's learnt tokens."""
    tokens: tuple[int, ...]
    """Learnt tokens of each example."""

    @property
    def loss(self) -> float:
        """Mean over all learnt tokens, in nats a token."""
        return sum(self.losses) / sum(self.tokens)


@torch.no_grad()
def score(model: Any, examples: Iterable[Example]) -> Score:
    """Scores examples one by one.

    Args:
        model: a causal language model, with or without adapters.
        examples: what to score.
    """
    was_training = model.training
    model.eval()
    causal = model.get_base_model() if hasattr(model, "peft_config") else model
    losses, tokens = [], []
    for example in examples:
        losses.append(_loss(causal, example))
        tokens.append(sum(example.learnt[1:]))
    model.train(was_training)
    return Score(tuple(losses), tuple(tokens))


def _loss(causal: Any, example: Example) -> float:
    device = causal.get_input_embeddings().weight.device
    ids = torch.tensor([example.ids], device=device)  # (1, tokens)
    learnt = torch.tensor(example.learnt[1:], device=device)  # (tokens - 1,): is the next token learnt?
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        hidden = causal.model(input_ids=ids, use_cache=False).last_hidden_state[0, :-1][learnt]  # (learnt, hidden)
        total = 0.0
        for states, targets in zip(hidden.split(CHUNK), ids[0, 1:][learnt].split(CHUNK), strict=True):
            logits = causal.lm_head(states).float()  # (chunk, vocabulary)
            total += functional.cross_entropy(logits, targets, reduction="sum").item()
    return total
