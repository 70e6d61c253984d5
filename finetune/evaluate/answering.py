"""Answers of a model in memory: greedy, many prompts at once, each as it would be answered alone.

What is padded stands to the left, under a mask that attention, convolution and recurrence keep; in float32 the logits
of a prompt alone and among others were 1e-6 apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finetune.generate import Tuned
from finetune.model import compute_device

MOST_TOKENS = 8192
"""Of prompts and answers that are held at once; 64 KiB each in a 27B's attention: half a GiB."""

MOST_AT_ONCE = 32
"""Prompts."""


@dataclass(frozen=True)
class Answer:
    """What a model said after a prompt."""

    text: str
    tokens: int
    """With its end of turn."""
    ended: bool
    """Whether it ended by itself, and not because it was cut."""


@torch.inference_mode()
def answer_all(
    tuned: Tuned, prompts: Sequence[Sequence[int]], max_new_tokens: int, tell: Callable[[int], None]
) -> list[Answer]:
    """Answers prompts, the longest first.

    Args:
        tuned: the model, and the vocabulary.
        prompts: ids of each.
        max_new_tokens: the most tokens of an answer.
        tell: is told the tokens of each answer as it comes.
    """
    found: dict[int, Answer] = {}
    for batch in _batches(prompts, max_new_tokens):
        for number, ids in zip(batch, _generate(tuned, [prompts[i] for i in batch], max_new_tokens), strict=True):
            end = next((at for at, token in enumerate(ids) if token in tuned.ends), None)
            said = ids if end is None else ids[:end]
            text = tuned.renderer.vocabulary.decode(said)
            found[number] = Answer(text, len(said) + (end is not None), end is not None)
            tell(found[number].tokens)
    return [found[number] for number in range(len(prompts))]


def _generate(tuned: Tuned, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
    """Gives the ids after each prompt, padded after their end."""
    device, longest = compute_device(tuned.model), max(map(len, prompts))
    ids = torch.full((len(prompts), longest), tuned.ends[-1], device=device)  # (prompt, token)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt, device=device)
        mask[row, longest - len(prompt) :] = 1
    out: Any = tuned.model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        eos_token_id=tuned.ends,
        pad_token_id=tuned.ends[-1],
        use_cache=True,
        do_sample=False,
        temperature=None,
        top_k=None,
        top_p=None,
        repetition_penalty=1.0,
    )
    told: list[list[int]] = out[:, longest:].tolist()
    return told


def _batches(prompts: Sequence[Sequence[int]], max_new_tokens: int) -> Iterator[list[int]]:
    """Puts prompts of like length together, by their numbers."""
    batch: list[int] = []
    for number in sorted(range(len(prompts)), key=lambda i: -len(prompts[i])):
        tokens = (len(batch) + 1) * (len(prompts[batch[0] if batch else number]) + max_new_tokens)
        if batch and (tokens > MOST_TOKENS or len(batch) == MOST_AT_ONCE):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
