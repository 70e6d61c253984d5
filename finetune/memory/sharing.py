"""What is trained, shared out over processes by DeepSpeed's ZeRO: what each of them holds of it, and when.

Counted from DeepSpeed 0.19.8, runtime/zero/stage_1_and_2.py, whose buffers a test watches in two processes. Trained
weights are float32 already, and ZeRO keeps a float32 copy of its own share beside them all the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from finetune.memory.adapters import TRAINED_BYTES

REDUCED_AT_ONCE = 2**24
"""Numbers of gradients that ZeRO copies together and adds up at once, `reduce_bucket_size`.

DeepSpeed's own is 5e8, a buffer of 2 GB whatever the size of the adapters. Of a tensor that is larger none is copied.
"""


@dataclass(frozen=True)
class Shared:
    """Bytes of one process beside the trained weights and AdamW's states."""

    held: dict[str, int]
    """From the first step to the last."""
    backward: dict[str, int]
    """More while a backward pass adds gradients up."""
    added_up: dict[str, int]
    """More when all of a step's gradients are there and are added up over the processes."""
    step: int
    """More in the optimizer's step."""


def shared(num_trained: int, *, processes: int, zero: int, accumulates: bool, at_once: int = REDUCED_AT_ONCE) -> Shared:
    """Counts them.

    Args:
        num_trained: numbers.
        processes: that share a step.
        zero: the stage; 1 shares out AdamW's states, 2 the gradients too, after every micro-batch.
        accumulates: whether a step has several micro-batches.
        at_once: numbers that are added up together.
    """
    whole = TRAINED_BYTES * num_trained
    if not zero or processes == 1:
        return Shared({"gradients": whole}, {}, {}, whole)
    share = TRAINED_BYTES * -(-num_trained // processes)
    bucket = TRAINED_BYTES * at_once
    copied = min(bucket, whole)  # laid end to end once more for the sum
    gradients = whole if zero == 1 else share
    # stage 2 fills a new share in every micro-batch and adds it to the one that it has
    filled = share if zero == 2 and accumulates else 0
    return Shared(
        held={"gradients": gradients, "own share of the adapters": share},
        backward={"gradients on their way": bucket + (filled + copied if zero == 2 else 0)},
        # in stage 1 those that were copied make room for their copies
        added_up={"gradients on their way": bucket + (share if zero == 1 else copied)},
        # the gradients of its share, laid end to end, and AdamW's divisor; those of others are gone
        step=max(0, 3 * share - gradients),
    )
