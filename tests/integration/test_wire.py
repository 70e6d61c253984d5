"""What the plan says of the wire and of ZeRO's buffers, beside what two processes really send and hold."""

from __future__ import annotations

import os
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import in_processes
from simulation.storages import Storages
from torch import distributed, nn
from torch.utils.checkpoint import checkpoint

from finetune.experts import Exchange, RoutedExperts
from finetune.experts.again import passes
from finetune.memory.sharing import shared
from finetune.plan.wire import EXCHANGES, all_gather, all_reduce, exchanged_bytes, reduce_scatter

pytestmark = [pytest.mark.slow]

PROOFS = Path(__file__).parents[1] / "proof"

SIZE, EXPERTS, HIDDEN, INTERMEDIATE, CHOSEN = 2, 8, 128, 64, 2
LENGTHS = (12, 5)
"""Tokens of each process."""

LAYERS, WIDTH, AT_ONCE = 16, 256, 2**17
NUMBERS = LAYERS * WIDTH * WIDTH
"""Trained in the engine's model, in sixteen tensors of which two are added up at once."""

CASES = [(zero, accumulation) for zero in (0, 1, 2) for accumulation in (1, 3)]

SENT = {"all_reduce": all_reduce, "all_gather_into_tensor": all_gather, "reduce_scatter_tensor": reduce_scatter}
GIVEN = {
    "all_reduce": (0, "tensor"),
    "all_gather_into_tensor": (1, "input_tensor"),
    "reduce_scatter_tensor": (1, "input"),
}
"""Collective -> where it is given what a process has to say."""

Sent = list[tuple[str, int]]
"""Every call of a collective, with the bytes that it was given."""


def look(place: int) -> dict[Any, Any]:
    """What one of two processes gives to the collectives, and holds."""
    sent: Sent = []
    for name in SENT:
        setattr(distributed, name, _noted(getattr(distributed, name), name, sent))
    return {"experts": exchange(place, sent), **{case: engine(place, *case, sent) for case in CASES}}


def _noted(function: Any, name: str, sent: Sent) -> Any:
    where, keyword = GIVEN[name]

    def noting(*given: Any, **named: Any) -> Any:
        tensor = named[keyword] if keyword in named else given[where]
        sent.append((name, tensor.numel() * tensor.element_size()))
        return function(*given, **named)

    return noting


def exchange(place: int, sent: Sent) -> Sent:
    """One layer whose experts are spread, forward, again and backward."""
    torch.manual_seed(place)
    made = RoutedExperts(
        num_experts=EXPERTS,
        hidden=HIDDEN,
        intermediate=INTERMEDIATE,
        activation=nn.SiLU(),
        nf4=False,
        dtype=torch.float32,
        device="cpu",
        exchange=Exchange(distributed.group.WORLD),
    )
    for stack in made.stacks.values():
        stack.fill(0, torch.randn(made.num_held * stack.out_features, stack.in_features))
    made.add_adapters(rank=2, scaling=2.0, dropout=0.0)
    hidden = torch.randn(LENGTHS[place], HIDDEN, requires_grad=True)
    index = torch.rand(LENGTHS[place], EXPERTS).topk(CHOSEN).indices
    weights = torch.rand(LENGTHS[place], CHOSEN, requires_grad=True)
    sent.clear()
    checkpoint(
        lambda states: made(states, index, weights), hidden, use_reentrant=False, context_fn=passes
    ).sum().backward()
    return list(sent)


def engine(place: int, zero: int, accumulation: int, sent: Sent) -> dict[str, Any]:
    """The second step of a model under DeepSpeed."""
    os.environ.update({"RANK": str(place), "WORLD_SIZE": str(SIZE), "LOCAL_RANK": str(place)})
    import deepspeed

    from finetune.train.distributed import engine_settings

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    settings = engine_settings(micro_batch=1, accumulation=accumulation, size=SIZE, zero=zero, max_grad_norm=1.0)
    settings["zero_optimization"]["reduce_bucket_size"] = AT_ONCE
    torch.manual_seed(0)
    with Storages([]) as alive:
        model = nn.Sequential(*[nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)])
        optimizer = torch.optim.AdamW(model.parameters())
        made, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
        for _ in range(2):
            sent.clear()
            alive.begin()
            backward = 0
            for micro in range(accumulation):
                made.backward(made(torch.randn(1, WIDTH)).pow(2).mean())
                if micro == accumulation - 1:
                    backward = alive.peak
                    alive.begin()
                made.step()
    return {"sent": list(sent), "backward": backward, "step": alive.peak}


@pytest.fixture(scope="module")
def found() -> list[dict[Any, Any]]:
    return in_processes(SIZE, look)


def test_the_page_of_clusters_holds_the_tables_of_today() -> None:
    sys.path.insert(0, str(PROOFS))
    try:
        import clusters
    finally:
        sys.path.pop(0)
    assert clusters.BEGIN + clusters.tables() + clusters.END in clusters.PAGE.read_text(), (
        "scripts/prove clusters --write"
    )


def bytes_of(sent: Sent) -> float:
    """What a ring sends for these calls; what a handful of numbers takes is left out, as it is in the plan."""
    return sum(SENT[name](given, SIZE) for name, given in sent if given > 8)


def test_a_layer_s_tokens_take_the_bytes_that_the_plan_counts(found: list[dict[Any, Any]]) -> None:
    counted = exchanged_bytes(tokens=max(LENGTHS), size=SIZE, hidden=HIDDEN, chosen=CHOSEN, e=4)
    for place in range(SIZE):
        assert bytes_of(found[place]["experts"]) == counted
        assert len(found[place]["experts"]) == EXCHANGES


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"zero {case[0]}, {case[1]} micro-batches")
def test_gradients_and_updated_adapters_take_the_bytes_that_the_plan_counts(
    found: list[dict[Any, Any]], case: tuple[int, int]
) -> None:
    zero, accumulation = case
    gradients = all_reduce(4 * NUMBERS, SIZE) * (accumulation if zero == 2 else 1)
    updated = all_gather(4 * NUMBERS / SIZE, SIZE) if zero else 0
    for place in range(SIZE):
        sent = found[place][case]["sent"]
        assert bytes_of(sent) == gradients + updated
        # stage 2 of DeepSpeed adds up with all-reduce, and each process keeps its share
        kinds = [name for name, _ in groupby(name for name, given in sent if given > 8)]
        assert kinds == ["all_reduce", "all_gather_into_tensor"][: 1 + (zero > 0)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"zero {case[0]}, {case[1]} micro-batches")
def test_an_engine_holds_the_bytes_that_the_plan_counts(found: list[dict[Any, Any]], case: tuple[int, int]) -> None:
    zero, accumulation = case
    counted = shared(NUMBERS, processes=SIZE, zero=zero, accumulates=accumulation > 1, at_once=AT_ONCE)
    states = 8 * NUMBERS // (SIZE if zero else 1)
    static = 4 * NUMBERS + states + sum(counted.held.values())
    backward = static + max(sum(more.values()) for more in (counted.backward, counted.added_up))
    most = {when: max(each[case][when] for each in found) for when in ("backward", "step")}
    # of one layer a gradient is there twice for a moment, a thirty-second of all; stage 0 lays all end to end
    assert most["backward"] == pytest.approx(backward + counted.step * (zero == 0), rel=0.05)
    if zero:  # without it AdamW goes from tensor to tensor here, and takes all at once on a GPU
        assert most["step"] == pytest.approx(static + counted.step, rel=0.05)
