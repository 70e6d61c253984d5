"""The loss of held-out examples: by transformers' model with its matrices on disk, and by llama.cpp of a GGUF."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.nn import functional

from finetune import engine
from finetune.data import Example
from finetune.merge.changes import Changes
from finetune.merge.ondisk import model_on_disk
from finetune.merge.weights import Weights
from finetune.model import Score
from finetune.plan import Plan

BATCH_TOKENS = 4096
"""That pass through a model together, padding included: every batch reads all weights from the disk."""


@torch.no_grad()
def score_on_disk(
    weights: Weights, plan: Plan, adapter: Changes | None, examples: Sequence[Example], device: torch.device
) -> Score:
    """Scores examples in float32, a few rows of a matrix in memory at a time.

    Args:
        weights: of the folder, as published or as 4 bits restore them.
        plan: of the run.
        adapter: that works beside the weights.
        examples: what to score.
        device: where it computes.
    """
    model = model_on_disk(weights, plan, adapter, device=device)
    states: dict[int, torch.Tensor] = {}
    for batch in _batches(examples):
        ids = torch.zeros(len(batch), max(len(examples[i]) for i in batch), dtype=torch.int64)
        for row, i in zip(ids, batch, strict=True):
            row[: len(examples[i])] = torch.tensor(examples[i].ids)
        # what is padded stands to the right, where neither attention nor the recurrence looks
        hidden = model(input_ids=ids.to(device), use_cache=False).last_hidden_state
        for place, i in enumerate(batch):
            learnt = torch.tensor(examples[i].learnt[1:], device=device)
            states[i] = hidden[place, : len(learnt)][learnt]
    tokens = [sum(example.learnt[1:]) for example in examples]
    targets = [torch.tensor(example.ids[1:])[torch.tensor(example.learnt[1:])] for example in examples]
    hidden = torch.cat([states[i] for i in range(len(examples))])
    losses = torch.split(_losses(hidden, torch.cat(targets).to(device), weights), tokens)
    return Score(tuple(of_example.sum().item() for of_example in losses), tuple(tokens))


def score_gguf(file: Path, examples: Sequence[Example]) -> Score:
    """Scores the same examples by llama.cpp, in a process of its own.

    Raises:
        ProofFailed: it cannot run the file.
    """
    costs, likeliest = engine.losses_of(file, [(example.ids, example.learnt) for example in examples])
    return Score(tuple(costs), tuple(sum(example.learnt[1:]) for example in examples), tuple(likeliest))


def _batches(examples: Sequence[Example]) -> Iterator[list[int]]:
    """Puts examples of like length together, by their numbers."""
    batch: list[int] = []
    for i in sorted(range(len(examples)), key=lambda i: -len(examples[i])):
        if batch and (len(batch) + 1) * len(examples[batch[0]]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    yield batch


def _losses(hidden: torch.Tensor, targets: torch.Tensor, weights: Weights) -> torch.Tensor:
    """Gives each token's negative log-likelihood in nats, (tokens,) float64, the head read a few rows at a time.

    Args:
        hidden: (tokens, hidden), what goes into the head.
        targets: (tokens,), what follows.
        weights: of the folder.
    """
    total = torch.full((len(targets),), -torch.inf, dtype=torch.float64, device=hidden.device)
    chosen = torch.zeros_like(total)
    for first, rows in weights.rows(weights.head):
        logits = functional.linear(hidden, rows.to(hidden.device)).double()
        total = torch.logaddexp(total, logits.logsumexp(dim=1))
        here = (targets >= first) & (targets < first + len(rows))
        chosen[here] = logits[here, targets[here] - first]
    return (total - chosen).cpu()
