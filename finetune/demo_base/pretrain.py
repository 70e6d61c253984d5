"""A minute of ordinary pre-training, so that the demo base knows its corpus's words and how a chat turn ends.

One objective for all text: the next token, of prose and of whole dialogues alike, prompts included.
The same seed and the same number of threads give the same weights; the clock decides nothing.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

PROSE = Path(__file__).parent / "corpus" / "prose.txt"
DIALOGUES = Path(__file__).parent / "corpus" / "dialogues.jsonl"
CORPUS = (PROSE, DIALOGUES)

HELDOUT_INTERVAL = 20
"""One document in this many is never trained on."""


@dataclass(frozen=True)
class Schedule:
    """How to pre-train. On this corpus other batches, rates and decays end within 0.1 nats, held out, of these."""

    num_steps: int = 150
    """A minute and a half on two cores."""
    batch_size: int = 8
    """Windows in one step."""
    window_tokens: int = 128
    peak_learning_rate: float = 3e-3
    warmup_share: float = 0.05
    """Share of the steps in which the learning rate rises linearly; a cosine then takes it to zero."""
    weight_decay: float = 0.1
    """On matrices; not on norms and decays."""
    max_gradient_norm: float = 1.0


SCHEDULE = Schedule()


def read_prose() -> list[str]:
    """Reads the paragraphs, each a document of its own."""
    paragraphs = PROSE.read_text(encoding="utf-8").split("\n\n")
    return [paragraph.strip() for paragraph in paragraphs if paragraph.strip()]


def read_dialogues() -> list[list[dict[str, str]]]:
    """Reads the dialogues as lists of messages."""
    return [json.loads(line)["messages"] for line in DIALOGUES.read_text(encoding="utf-8").splitlines()]


def encode_corpus(tokenizer: Any) -> tuple[list[list[int]], list[list[int]]]:
    """Encodes every document, ended by `<|endoftext|>`, and sets some aside.

    Dialogues are rendered as they are served with thinking off: the last answer follows an empty think block.

    Returns:
        Token ids of the documents to train on, and of those held out.
    """
    dialogues = [
        tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False) for messages in read_dialogues()
    ]
    documents = tokenizer([text + "<|endoftext|>" for text in read_prose() + dialogues])["input_ids"]
    train = [ids for number, ids in enumerate(documents, start=1) if number % HELDOUT_INTERVAL]
    return train, documents[HELDOUT_INTERVAL - 1 :: HELDOUT_INTERVAL]


def windows(documents: list[list[int]], num_tokens: int, seed: int) -> Iterator[list[int]]:
    """Fills windows with whole documents in a new order each time round, for ever.

    Each window begins where a document does, because DeltaNet's state is empty there when the model is used;
    what hangs over the window's end is left for another round.
    """
    order = random.Random(seed)
    window: list[int] = []
    while True:
        for document in order.sample(documents, len(documents)):
            window += document
            if len(window) >= num_tokens:
                yield window[:num_tokens]
                window = []


@torch.no_grad()
def heldout_loss(model: Any, documents: list[list[int]]) -> float:
    """Returns the mean loss in nats per predicted token, each document read alone."""
    nats, num_predicted = 0.0, 0
    for document in documents:
        ids = torch.tensor([document])  # (1, token)
        nats += model(input_ids=ids, labels=ids).loss.item() * (len(document) - 1)
        num_predicted += len(document) - 1
    return nats / num_predicted


def pretrain(model: Any, documents: list[list[int]], seed: int, schedule: Schedule) -> None:
    """Trains the text weights of a model in place, in their own precision.

    Args:
        model: The multimodal class; its image tower gets no gradient and stays as it is.
        documents: Token ids, each document ended.
        seed: Order of the documents.
        schedule: Everything else. Progress goes to stderr ten times.
    """
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim == 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": schedule.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    source = windows(documents, schedule.window_tokens, seed)
    num_steps = schedule.num_steps
    model.train()
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, schedule)
        ids = torch.tensor([next(source) for _ in range(schedule.batch_size)])  # (window, token)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % max(1, num_steps // 10) == 0:
            print(f"pre-training step {step + 1}/{num_steps}, loss {loss.item():.2f}", file=sys.stderr, flush=True)
    model.eval()


def learning_rate(step: int, schedule: Schedule) -> float:
    """Rises linearly, then falls along a half cosine to zero after the last step."""
    num_warmup = max(1, round(schedule.num_steps * schedule.warmup_share))
    if step < num_warmup:
        return schedule.peak_learning_rate * (step + 1) / num_warmup
    done = (step - num_warmup) / max(1, schedule.num_steps - num_warmup)
    return schedule.peak_learning_rate * 0.5 * (1 + math.cos(math.pi * done))
