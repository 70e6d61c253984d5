"""Times both ways on which tokens travel to experts spread over processes, and counts the bytes, in one run.

    scripts/prove exchange [--processes 4] [--tokens 512] [--experts 64] [--hidden 1024] [--intermediate 64]

One layer, forward and backward, over gloo on this machine, the ways in turns; narrow experts, so that travelling shows.
Bytes are what a process gives to others in a step: the mean of all processes, and the most of any.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

sys.path.append(str(Path(__file__).parents[1] / "integration"))

from processes import in_processes

from finetune.experts import Exchange, RoutedExperts

ROUNDS = 7
CASES = [(kind, chosen) for kind in ("even", "skewed") for chosen in (1, 2, 4, 8)]
"""How routers choose, and experts of a token; where skewed, all of the last process."""

WAYS = ("to_all", "to_owners")


def main() -> int:
    """Prints a line for each case; 0 if both ways give the same answers."""
    parser = argparse.ArgumentParser()
    defaults = {"processes": 4, "tokens": 512, "experts": 64, "hidden": 1024, "intermediate": 64}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    found = in_processes(given.processes, one, vars(given))
    print(", ".join(f"{name} {value}" for name, value in vars(given).items()), "float32")
    print(f"{'':<22}{'all: MB':>9}{'most':>7}{'s':>8}{'owners: MB':>13}{'most':>7}{'s':>8}{'apart':>10}")
    worst = 0.0
    for case in CASES:
        line = f"{case[0]}, {case[1]} of {given.experts}"
        told = f"{line:<22}"
        for way in WAYS:
            sent = [each[case][way]["bytes"] / 1e6 for each in found]
            seconds = statistics.median(found[0][case][way]["seconds"])
            width = 9 if way == "to_all" else 13
            told += f"{statistics.mean(sent):>{width}.2f}{max(sent):>7.2f}{seconds:>8.3f}"
        apart = max(each[case]["apart"] for each in found)
        worst = max(worst, apart)
        print(f"{told}{apart:>10.1e}")
    return int(not worst < 1e-5)


def one(place: int, given: dict[str, int]) -> dict[Any, Any]:
    """What one process measures in each case."""
    warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 has new names for collectives, which older ones lack
    exchange = Exchange(distributed.group.WORLD)
    made = RoutedExperts(
        num_experts=given["experts"],
        hidden=given["hidden"],
        intermediate=given["intermediate"],
        activation=nn.SiLU(),
        nf4=False,
        dtype=torch.float32,
        device="cpu",
        exchange=exchange,
    )
    random = torch.Generator().manual_seed(place)
    for stack in made.stacks.values():
        stack.weight.normal_(std=0.02, generator=random)
    sent = counted(exchange.size, place)
    found: dict[Any, Any] = {}
    for kind, chosen in CASES:
        scores = torch.rand(given["tokens"], given["experts"], generator=random)
        if kind == "skewed":
            scores[:, -made.num_held :] += 1
        hidden = torch.randn(given["tokens"], given["hidden"], generator=random)
        data = hidden, scores.topk(chosen).indices, torch.rand(given["tokens"], chosen, generator=random)
        ways: dict[str, Any] = {way: {"seconds": []} for way in WAYS}
        answers = {}
        for _ in range(ROUNDS):
            for way in WAYS:
                exchange.way = lambda experts_of_a_token, way=way: getattr(exchange, way)  # type: ignore[method-assign]
                distributed.barrier()
                sent.clear()
                began = time.monotonic()
                answers[way] = step(made, *data)
                ways[way]["seconds"].append(time.monotonic() - began)
                ways[way]["bytes"] = sum(sent)
        first, second = answers.values()
        ways["apart"] = max(((a - b).abs().max() / a.abs().max()).item() for a, b in zip(first, second, strict=True))
        found[kind, chosen] = ways
    return found


def step(
    made: RoutedExperts, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The answer, and the gradients of states and weights."""
    hidden, weights = hidden.clone().requires_grad_(), weights.clone().requires_grad_()
    answer = made(hidden, index, weights)
    return answer.detach(), *torch.autograd.grad(answer.square().sum(), (hidden, weights))


def counted(size: int, place: int) -> list[float]:
    """Lets the collectives note the bytes that this process gives to others, as each would at its best."""
    sent: list[float] = []

    def noting(name: str, of: Callable[..., float]) -> None:
        function = getattr(distributed, name)

        def noted(*args: Any, **named: Any) -> Any:
            sent.append(of(*args, **named))
            return function(*args, **named)

        setattr(distributed, name, noted)

    def to_others(out: torch.Tensor, rows: torch.Tensor, into: Any = None, out_of: Any = None, **named: Any) -> float:
        mine = out_of[place] if out_of else len(rows) // size
        return float((len(rows) - mine) * rows[:1].numel() * rows.element_size()) if len(rows) else 0.0

    noting("all_gather_into_tensor", lambda out, mine, **named: (size - 1) * mine.nbytes)
    noting("reduce_scatter_tensor", lambda mine, of_all, **named: (size - 1) / size * of_all.nbytes)
    noting("all_to_all_single", to_others)
    return sent


if __name__ == "__main__":
    raise SystemExit(main())
