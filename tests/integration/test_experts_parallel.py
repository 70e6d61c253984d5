"""Experts spread over processes against all of them in one: answers, gradients, and what is sent."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from processes import in_processes
from torch import distributed, nn
from torch.utils.checkpoint import checkpoint

from finetune.experts import Exchange, RoutedExperts
from finetune.experts.again import passes

EXPERTS, HIDDEN, INTERMEDIATE, CHOSEN = 8, 128, 64, 2

LENGTHS = {"even": (12, 12, 12, 12), "uneven": (12, 5, 1, 30), "skewed": (12, 5, 1, 30), "empty": (12, 0, 1, 30)}
"""Tokens of each process; where skewed, all of them choose the two experts of the last one of four."""


def experts(exchange: Exchange | None, *, nf4: bool) -> RoutedExperts:
    """The same weights and adapters, however they are spread."""
    made = RoutedExperts(
        num_experts=EXPERTS,
        hidden=HIDDEN,
        intermediate=INTERMEDIATE,
        activation=nn.SiLU(),
        nf4=nf4,
        dtype=torch.float32,
        device="cpu",
        exchange=exchange,
    )
    torch.manual_seed(0)
    for stack in made.stacks.values():
        rows = torch.randn(EXPERTS * stack.out_features, stack.in_features) * 0.05
        stack.fill(0, rows.view(EXPERTS, -1)[made.first : made.first + made.num_held].view(-1, stack.in_features))
    made.add_adapters(rank=2, scaling=2.0, dropout=0.0)
    for lora in made.adapters.values():
        nn.init.normal_(lora.lora_B, std=0.05)
    return made


def tokens_of(place: int, kind: str) -> tuple[torch.Tensor, ...]:
    """What one process has: states, choices, their weights, and the gradient that comes back."""
    random = torch.Generator().manual_seed(place)
    count = LENGTHS[kind][place]
    weights = torch.rand(count, EXPERTS, generator=random)
    if kind == "skewed":
        weights[:, -2:] += 1  # two of eight experts get everything: max/mean is 4, the most there can be
    index = weights.topk(CHOSEN).indices
    drawn = (torch.randn(count, width, generator=random) for width in (HIDDEN, HIDDEN))
    return *drawn, index, torch.rand(count, CHOSEN, generator=random)


def run(made: RoutedExperts, given: tuple[torch.Tensor, ...], *, recomputed: bool) -> dict[str, torch.Tensor]:
    """One forward and backward: the answer and every gradient."""
    hidden, gradient, index, weights = given
    hidden, weights = hidden.clone().requires_grad_(), weights.clone().requires_grad_()
    made.zero_grad()

    def block(states: torch.Tensor) -> torch.Tensor:
        return states + made(states * states, index, weights)

    answer = checkpoint(block, hidden, use_reentrant=False, context_fn=passes) if recomputed else block(hidden)
    answer.backward(gradient)
    told = {"answer": answer.detach(), "hidden": hidden.grad, "weights": weights.grad}
    return told | {name: p.grad.clone() for name, p in made.named_parameters()}


CASES = [
    (2, "uneven", True, "to_all"),
    (2, "skewed", False, "to_owners"),
    (2, "empty", False, "to_owners"),
    (4, "even", False, "to_all"),
    *((4, kind, nf4, way) for kind, nf4 in (("skewed", True), ("empty", False)) for way in ("to_all", "to_owners")),
]
"""Size of a group, tokens, whether weights are in NF4, the way that tokens take."""


def spread(place: int) -> dict[Any, dict[str, Any]]:
    """What one process of four finds in each case, and how often it spoke with the others."""
    pairs = [distributed.new_group([0, 1]), distributed.new_group([2, 3])]
    sent: list[str] = []
    for name in ("all_reduce", "all_gather_into_tensor", "reduce_scatter_tensor", "all_to_all_single"):
        setattr(distributed, name, _noted(getattr(distributed, name), name, sent))
    told = {}
    for case in CASES:
        size, kind, nf4, way = case
        exchange = Exchange(distributed.group.WORLD if size == 4 else pairs[place // 2])
        assert exchange.way(CHOSEN) is (exchange.to_owners if size == 4 else exchange.to_all)
        chosen = getattr(exchange, way)
        exchange.way = lambda experts_of_a_token: chosen  # noqa: B023
        made, given = experts(exchange, nf4=nf4), tokens_of(place, kind)
        once = run(made, given, recomputed=False)
        sent.clear()
        again = run(made, given, recomputed=True)
        told[case] = {"once": once, "again": again, "sent": list(sent), "held": made.num_held}
    return told


@pytest.fixture(scope="module")
def found() -> list[dict[Any, dict[str, Any]]]:
    return in_processes(4, spread)


def _noted(function: Any, name: str, sent: list[str]) -> Any:
    def noting(*given: Any, **named: Any) -> Any:
        sent.append(name)
        return function(*given, **named)

    return noting


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, as a share of the largest number; a process without a token has none."""
    assert one.shape == other.shape
    if not other.numel():
        return 0.0
    return ((one - other).abs().max() / other.abs().max().clamp(min=1e-12)).item()


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case[0]}-{case[1]}-{'nf4' if case[2] else 'plain'}-{case[3]}"
)
def test_spread_over_processes_nothing_changes(
    found: list[dict[Any, dict[str, Any]]], case: tuple[Any, ...], within: Any
) -> None:
    size, kind, nf4, way = case
    named = f"one layer over {size}, {kind}, {'NF4' if nf4 else 'float32'}, {way}:"
    alone = experts(None, nf4=nf4)
    expected = [run(alone, tokens_of(place, kind), recomputed=False) for place in range(4)]
    told = [each[case] for each in found]
    for place in range(4):
        assert told[place]["held"] == EXPERTS // size
        for name in ("answer", "hidden", "weights"):
            # sums over a token's experts and over 128 states, in float32
            off = apart(told[place]["once"][name], expected[place][name])
            within(f"{named} answers and their gradients", off, 4e-6)
            assert torch.equal(told[place]["once"][name], told[place]["again"][name])
    for name, _ in alone.named_parameters():
        # a process has the gradients of its own experts, of its group's tokens; the others' are zero
        total = sum(each["once"][name] for each in told)
        within(f"{named} gradients of adapters", apart(total, sum(each[name] for each in expected)), 2e-6)
        assert all(torch.equal(each["once"][name], each["again"][name]) for each in told)
        for expert in range(EXPERTS):
            owners = {place % size for place in range(4) if told[place]["once"][name][expert].any()}
            assert owners <= {expert // (EXPERTS // size)}


@pytest.mark.parametrize("kind", [("skewed", True), ("empty", False)], ids=["skewed", "empty"])
def test_both_ways_lead_to_the_same(found: list[dict[Any, dict[str, Any]]], kind: tuple[str, bool]) -> None:
    for each in found:
        one, other = (each[4, *kind, way]["once"] for way in ("to_all", "to_owners"))
        assert all(apart(one[name], other[name]) < 1e-6 for name in one)


def test_what_was_gathered_is_not_gathered_again_in_backward(found: list[dict[Any, dict[str, Any]]]) -> None:
    gather, scatter, send = "all_gather_into_tensor", "reduce_scatter_tensor", "all_to_all_single"
    # forward: how many, states, choices, weights; answers. backward: their gradients; of states and of weights
    to_all = ["all_reduce", gather, gather, gather, scatter, gather, scatter, scatter]
    for each in found:
        for (*_, way), told in each.items():
            assert told["sent"] == (to_all if way == "to_all" else [send] * 8)
