"""What DeepSpeed's ZeRO shares out over processes: what each of them holds of it, and when.

Counted from DeepSpeed 0.19.8, runtime/zero/stage_1_and_2.py, whose buffers a test watches in two processes. Trained
weights are float32 already, and ZeRO keeps a float32 copy of its own share beside them all the same. Of stage 3, which
shares out frozen weights too, only the code was read (stage3.py, partitioned_param_coordinator.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from finetune.memory.adapters import TRAINED_BYTES
from finetune.memory.weights import NF4_BYTES

REDUCED_AT_ONCE = 2**24
"""Numbers of gradients that ZeRO copies together and adds up at once, `reduce_bucket_size`.

DeepSpeed's own is 5e8, a buffer of 2 GB whatever the size of the adapters. Of a tensor that is larger none is copied.
"""


LIVE = 10**9
"""Numbers that stage 3 leaves whole for a while, `stage3_max_live_parameters`; of NF4 it counts packed bytes."""

OF_STAGE_3 = {"linear layers in NF4": 0.5 / NF4_BYTES, "linear layers": 1.0, "embedding": 1.0}
"""Part of the weights -> what stage 3 shares out of it: of NF4 not the scales. Routed experts it does not see."""


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
    filled = share if zero >= 2 and accumulates else 0
    return Shared(
        held={"gradients": gradients, "own share of the adapters": share},
        backward={"gradients on their way": bucket + (filled + copied if zero >= 2 else 0)},
        # in stage 1 those that were copied make room for their copies
        added_up={"gradients on their way": bucket + (share if zero == 1 else copied)},
        # the gradients of its share, laid end to end, and AdamW's divisor; those of others are gone
        step=max(0, 3 * share - gradients),
    )


def shared_weights(parts: Mapping[str, int], *, processes: int, zero: int, e: int) -> tuple[dict[str, int], int, int]:
    """Shares frozen weights out, which stage 3 alone does.

    Args:
        parts: bytes of the weights, part by part.
        processes: that share a step.
        zero: the stage.
        e: bytes of a number that is not quantised.

    Returns:
        The parts of one process; the bytes that are shared out in all; of these, what is whole at one time.
    """
    if zero < 3 or processes == 1:
        return dict(parts), 0, 0
    spread = {name: round(OF_STAGE_3[name] * size) for name, size in parts.items() if name in OF_STAGE_3}
    held = {name: size - spread.get(name, 0) + -(-spread.get(name, 0) // processes) for name, size in parts.items()}
    number = 1 if "linear layers in NF4" in spread else e
    return held, sum(spread.values()), min(number * LIVE, sum(spread.values()))
