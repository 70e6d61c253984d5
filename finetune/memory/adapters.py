"""What is trained: adapters, their gradients, and AdamW's two states for them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from finetune.levers import Optimizer
from finetune.shape import Linear

TRAINED_BYTES = 4
"""Trained weights and their gradients are float32, so that a resumed run is the same run."""

SMALL = 4096
"""Numbers under which bitsandbytes keeps a tensor's states in float32. Source: min_8bit_size, optim/optimizer.py."""

PAGED = 100_000
"""Numbers from which a paged optimizer's states can move to the host. Source: get_state_buffer, optim/optimizer.py."""

BLOCK = 256
"""Numbers of an 8-bit state that share one float32 scale. Source: bitsandbytes 0.50, optim/optimizer.py."""

Tensors = Sequence[tuple[int, ...]]


def adapter_shapes(linears: Sequence[Linear], rank: int, expert_rank: int = 0) -> list[tuple[int, ...]]:
    """Lists the shapes of lora_A (rank, in) and lora_B (out, rank) of every adapted layer, those of experts stacked."""
    found: list[tuple[int, ...]] = []
    for each in linears:
        out, into = each.shape
        if each.num_experts:
            found += [(each.num_experts, expert_rank, into), (each.num_experts, out, expert_rank)]
        else:
            found += [(rank, into), (out, rank)]
    return found


def num_trainable(tensors: Tensors) -> int:
    """Counts the trained numbers."""
    return sum(prod(shape) for shape in tensors)


def state_bytes(tensors: Tensors, optimizer: Optimizer) -> tuple[int, int]:
    """Gives the bytes of AdamW's two states: those that stay on the device, and those that can move to the host."""
    stay = move = 0
    for count in map(prod, tensors):
        if optimizer == "adamw" or count < SMALL:
            stay += 2 * 4 * count
            continue
        states = 2 * (count + 4 * -(-count // BLOCK))
        if optimizer == "paged_adamw_8bit" and count >= PAGED:
            # only the 8-bit states are paged; their scales are ordinary tensors
            move += 2 * count
            states -= 2 * count
        stay += states
    return stay, move
