"""What each stage writes, in bytes: those of this package, and those that follow it."""

from __future__ import annotations

from finetune.memory import NF4_BYTES, Job
from finetune.plan.record import Choices
from finetune.recipe import Recipe
from finetune.shape import ModelShape

BF16_BYTES = 2

Q8_0_BYTES = 34 / 32
"""Bytes a weight: 32 weights of 8 bits and one 16-bit scale. Source: block_q8_0 of llama.cpp."""

Q4_K_M_BYTES = 4.85 / 8
"""Bytes a weight, of the mixture of 4.5-bit and 6.56-bit blocks. Source: llama.cpp, README of the quantiser."""

STATE_BYTES = 64 * 2**10
"""Of a checkpoint's small files: scheduler, random states, trainer's state, hashes."""


def disk_bytes(recipe: Recipe, shape: ModelShape, job: Job, choices: Choices) -> dict[str, int]:
    """Adds up what each stage writes.

    Returns:
        `base` the download; `cache` the quantised copy, if one is kept; `checkpoints` while training, the one in the
        making included; `adapter`, or `weights`; `merged` in bf16; `gguf` in bf16, from which the quantised ones are
        made; then `gguf q8_0` and `gguf q4_k_m`.
    """
    weights = 4 * job.num_trained
    states, moved = job.states[choices.optimizer]
    checkpoint = weights + states + moved + STATE_BYTES
    text = job.weights
    stored = text.linears + text.experts + text.others + text.embedding + text.head
    in_4_bits = text.linears + text.experts
    quantised = round(in_4_bits * NF4_BYTES) + BF16_BYTES * (stored - in_4_bits)
    found = {
        "base": BF16_BYTES * shape.num_parameters,
        "cache": quantised if job.nf4 else 0,
        "checkpoints": (recipe.train.keep_checkpoints + 1) * checkpoint,
        "adapter": 0 if job.full else weights,
        "weights": weights if job.full else 0,
        "merged": BF16_BYTES * shape.num_parameters,
        "gguf bf16": BF16_BYTES * stored,
        "gguf q8_0": round(Q8_0_BYTES * stored),
        "gguf q4_k_m": round(Q4_K_M_BYTES * stored),
    }
    return {stage: size for stage, size in found.items() if size}
