"""One optimizer step, taken apart and timed, and the memory that it held; running out of memory is an answer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import torch
from transformers import Trainer
from trl import SFTConfig

from bench.ballast import free_now
from bench.stacks import Loss
from bench.weights import clean, trained_of

LEARNING_RATE = 1e-5
"""So small that a hundred steps leave random weights as random as they were."""

MAX_NORM = 1.0

PARTS = ("forward", "backward", "optimizer")

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """Seconds of one step, and its loss."""

    forward: float
    backward: float
    optimizer: float
    """With the clipping of gradients."""
    loss: float

    @property
    def seconds(self) -> float:
        return self.forward + self.backward + self.optimizer


def make_optimizer(model: Any, optim: str | None, *, cuda: bool) -> torch.optim.Optimizer:
    """Makes the optimizer that transformers' Trainer makes, by its word for it; its default if none is told."""
    named = {} if optim is None else {"optim": optim}
    arguments = SFTConfig(
        output_dir="unused",
        learning_rate=LEARNING_RATE,
        use_cpu=not cuda,
        bf16=cuda,
        report_to=[],
        gradient_checkpointing=False,
        **named,
    )
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
    # the Trainer hands the decay over with the parameters: none here, as in a recipe that does not ask for it
    made: torch.optim.Optimizer = kind([{"params": list(trained_of(model).values()), "weight_decay": 0.0}], **settings)
    return made


def draw_ids(tokens: int, vocabulary: int, device: torch.device, seed: int = 0) -> torch.Tensor:
    """Draws one example of random tokens, (1, tokens)."""
    draw = torch.Generator("cpu").manual_seed(seed)
    return torch.randint(0, vocabulary, (1, tokens), generator=draw).to(device)


def take_step(loss_of: Loss, ids: torch.Tensor, parameters: Sequence[Any], optimizer: torch.optim.Optimizer) -> Step:
    """Takes one step.

    Gradients are zeroed and kept, as they are from the second micro-batch of an accumulation on: the plan counts the
    worst case.
    """
    stamps = [_stamp(ids.device)]
    loss = loss_of(ids)
    stamps.append(_stamp(ids.device))
    loss.backward()
    stamps.append(_stamp(ids.device))
    torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    stamps.append(_stamp(ids.device))
    told = float(loss.detach())
    if ids.is_cuda:
        torch.cuda.synchronize()
    forward, backward, update = (_between(*pair) for pair in pairwise(stamps))
    return Step(forward, backward, update, told)


def _stamp(device: torch.device) -> Any:
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(first: Any, last: Any) -> float:
    return float(last - first if isinstance(first, float) else first.elapsed_time(last) / 1000)


def summary(steps: Sequence[Step], tokens: int) -> dict[str, Any]:
    """Tells the times of some steps as they stand in results.json."""
    whole = sorted(step.seconds for step in steps)
    median = statistics.median(whole)
    return {
        "num_steps": len(whole),
        "step_seconds": median,
        "step_seconds_p90": whole[min(len(whole) - 1, round(0.9 * (len(whole) - 1) + 0.499))],
        **{f"{part}_seconds": statistics.median(getattr(step, part) for step in steps) for part in PARTS},
        "tokens_per_second": tokens / median,
    }


def start_counting() -> None:
    """Forgets the peaks so far."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def memory(free_at_start: int | None) -> dict[str, int | None]:
    """Reads CUDA's counters; each is None without a GPU.

    Args:
        free_at_start: bytes that were free before anything was loaded, the ballast in its place.
    """
    if free_at_start is None:
        return dict.fromkeys(("allocated_bytes", "reserved_bytes", "taken_bytes", "num_alloc_retries", "num_ooms"))
    torch.cuda.synchronize()
    told = torch.cuda.memory_stats()
    return {
        "allocated_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
        "taken_bytes": free_at_start - free_now(),
        "num_alloc_retries": told["num_alloc_retries"],
        "num_ooms": told["num_ooms"],
    }


def resting_bytes(free_at_start: int | None) -> int | None:
    """Tells what tensors hold between two steps; None without a GPU."""
    return None if free_at_start is None else torch.cuda.memory_allocated()


def unless_out_of_memory(run: Callable[[], T]) -> T | None:
    """Gives what a function gives, or None where the device has not the memory for it; what it held is given up then.

    cuBLAS, Triton and CUDA's own calls do not raise torch's error when they get none.
    """
    try:
        return run()
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not is_out_of_memory(error):
            raise
    # only here has the exception let go of the frames, and they of their tensors
    clean()
    return None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tells whether an error says that there was no memory."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "alloc_failed" in said
