"""The loss of each example on the tokens that it teaches, without ever making logits for the others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from finetune.data import Example
from finetune.model.losses import TokenLosses, token_losses
from finetune.model.parts import causal_of, compute_device


@dataclass(frozen=True)
class Score:
    """Of a set of examples, in their order."""

    losses: tuple[float, ...]
    """Sum of the negative log-likelihood, in nats, of each example's learnt tokens."""
    tokens: tuple[int, ...]
    """Learnt tokens of each example."""
    likeliest: tuple[bool, ...] = ()
    """Whether each example's learnt tokens are what greedy decoding would say; empty where nobody looked."""

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
    causal = causal_of(model)
    losses, tokens, likeliest = [], [], []
    for example in examples:
        found = _losses(causal, example)
        losses.append(found.nll.sum().item())
        tokens.append(len(found.nll))
        likeliest.append(bool(found.is_top1.all()))
    model.train(was_training)
    return Score(tuple(losses), tuple(tokens), tuple(likeliest))


def _losses(causal: Any, example: Example) -> TokenLosses:
    device = compute_device(causal)
    ids = torch.tensor([example.ids], device=device)  # (1, tokens)
    learnt = torch.tensor(example.learnt[1:], device=device)  # (tokens - 1,): is the next token learnt?
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        hidden = causal.model(input_ids=ids, use_cache=False).last_hidden_state[0, :-1][learnt]  # (learnt, hidden)
        return token_losses(hidden, causal.lm_head, ids[0, 1:][learnt])
