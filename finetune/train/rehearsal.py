"""One micro-batch of the longest examples, forward and backward, before the first step: what will not fit, fails now.

Nothing is learnt by it: no optimizer step is taken, gradients are forgotten, and the random numbers are put back.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune.data.batches import longest_first
from finetune.errors import ArtifactError
from finetune.model import causal_of, compute_device, first_not_finite
from finetune.run import Claim
from finetune.shards import refetch
from finetune.train.batches import micro_batches
from finetune.train.trainer import ProvingTrainer

TOLERANCE = 0.03
"""How far the measured peak may be from the planned one."""


@dataclass(frozen=True)
class Rehearsal:
    """What the longest micro-batch took."""

    tokens: int
    """Padding included."""
    seconds: float
    allocated_bytes: int | None
    """The most that torch had given out on the GPU; None without one."""
    reserved_bytes: int | None
    """The most that torch had taken from the GPU; None without one."""
    resident_bytes: int
    """The most of the host's memory that the process has held so far."""


def rehearse(trainer: ProvingTrainer, base: Path, say: Callable[[str], None]) -> Rehearsal:
    """Runs the worst micro-batch of the run through the model, beside as many bytes as the optimizer will hold.

    Args:
        trainer: put together, not yet begun.
        base: the folder of its base.
        say: takes a line for the user.

    Raises:
        ArtifactError: a weight of the base is not finite; nothing was learnt yet that could be at fault.
        torch.OutOfMemoryError: it does not fit.
    """
    plan, device = trainer.plan, compute_device(trainer.model)
    began = time.monotonic()
    inputs = _longest(trainer, device)
    states = plan.parts.get("optimizer states", 0) if device.type == "cuda" else 0
    with undone(trainer, device):
        ballast = torch.empty(states, dtype=torch.uint8, device=device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        trainer.model.train()
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:  # as in every micro-batch of a step but its first
                parameter.grad = torch.zeros_like(parameter)
        losses, auxiliary = trainer.losses(trainer.model, inputs)
        total = losses.nll.mean() if auxiliary is None else losses.nll.mean() + auxiliary
        total.backward()
        del ballast
        if not torch.isfinite(total) and (name := first_not_finite(causal_of(trainer.model))):
            why = f"{name.replace('.base_layer', '')} holds an infinite number or none at all"
            fix = refetch(base)
            raise ArtifactError("a weight of the base is not finite", where=str(base), why=why, fix=fix)
    cuda = device.type == "cuda"
    found = Rehearsal(
        tokens=inputs["input_ids"].numel(),
        seconds=round(time.monotonic() - began, 2),
        allocated_bytes=torch.cuda.max_memory_allocated(device) if cuda else None,
        reserved_bytes=torch.cuda.max_memory_reserved(device) if cuda else None,
        resident_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )
    told = f"rehearsed: the longest micro-batch, {found.tokens:,} tokens, in {found.seconds:,} s"
    if found.reserved_bytes is not None:
        told += f"; {found.reserved_bytes / 2**30:.2f} GiB taken of {plan.peak_bytes / 2**30:.2f} planned"
    say(told)
    return found


def memory_claims(trainer: ProvingTrainer, rehearsal: Rehearsal) -> list[Claim]:
    """Compares the promise with what was measured; each claim begins with `memory`, in which no two runs agree."""
    plan = trainer.plan
    if rehearsal.allocated_bytes is None or rehearsal.reserved_bytes is None:
        told = f"memory: resident bytes of the process at its peak (planned for a host: {plan.host_bytes:,})"
        return [{"claim": told, "measured": rehearsal.resident_bytes, "tolerance": None, "holds": True}]
    peak = max(rehearsal.allocated_bytes, torch.cuda.max_memory_allocated())
    reserved = max(rehearsal.reserved_bytes, torch.cuda.max_memory_reserved())
    planned = plan.peak_bytes - plan.parts.get("CUDA context", 0) - plan.parts.get("gaps between blocks", 0)
    near = abs(peak / planned - 1) <= TOLERANCE
    return [
        {
            "claim": "memory: peak of the tensors on the GPU, bytes",
            "measured": peak,
            "tolerance": planned,
            "holds": near,
        },
        {
            "claim": "memory: taken from the GPU at the peak, gaps included, bytes",
            "measured": reserved,
            "tolerance": plan.peak_bytes,
            "holds": reserved <= plan.peak_bytes,
        },
    ]


def _longest(trainer: ProvingTrainer, device: torch.device) -> dict[str, Any]:
    """Collates the longest examples into one micro-batch: padded ones, or as many as fill a pack."""
    order = longest_first(range(len(trainer.lengths)), trainer.lengths)
    packing, limit = trainer.recipe.data.packing, trainer.recipe.data.max_length
    most = trainer.recipe.train.batch_size
    rows = _fill(order, trainer.lengths, limit, most) if packing else order[: trainer.plan.choices.micro_batch]
    batch = next(micro_batches(trainer.data_collator([{"index": row} for row in rows])))
    return {name: tensor.to(device) for name, tensor in batch.items() if name != "index"}


def _fill(order: Sequence[int], lengths: Sequence[int], limit: int, most: int) -> list[int]:
    """Chooses rows for a pack of several examples that is nearly full; attention's mask is a square of its length."""
    shortest = lengths[order[-1]]
    rows: list[int] = []
    for row in order[:-1]:
        if lengths[row] + shortest <= limit and len(rows) + 1 < most:
            rows.append(row)
            limit -= lengths[row]
    return [*rows, order[-1]] if rows else [order[0]]


@contextmanager
def undone(trainer: ProvingTrainer, device: torch.device) -> Iterator[None]:
    """Leaves no trace: neither gradients nor a changed random state."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            trainer.model.zero_grad(set_to_none=True)
