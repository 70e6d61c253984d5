"""Times our experts beside PEFT's target_parameters and transformers' own, and counts the bytes they hold.

    scripts/prove experts [--tokens 1024] [--experts 64] [--hidden 1024] [--intermediate 512] [--device cuda]

One layer of routed experts with LoRA of one rank, forward and backward, in one run, the contestants in turns. Bytes are
those alive at the peak beyond weights, adapters and inputs. The 35B-A3B's layer: --experts 256 --hidden 2048.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import Qwen3_5MoeTextConfig
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeExperts
from trial.alive import Alive

from finetune.experts import WEIGHTS, RoutedExperts

CHOSEN, RANK, SCALING, ROUNDS = 8, 4, 2.0, 5


@dataclass(frozen=True)
class Contestant:
    name: str
    run: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    module: nn.Module


def main() -> int:
    """Prints a line for each contestant; 0 if all that adapt give the same answer."""
    parser = argparse.ArgumentParser()
    for name, default in (("tokens", 1024), ("experts", 64), ("hidden", 1024), ("intermediate", 512)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    given = parser.parse_args()
    torch.manual_seed(0)
    contestants = make(given)
    tokens = (given.tokens, given.hidden)
    hidden = torch.randn(tokens, device=given.device, dtype=torch.bfloat16)
    index = torch.rand(given.tokens, given.experts, device=given.device).topk(CHOSEN).indices
    weights = torch.rand(given.tokens, CHOSEN, device=given.device, dtype=torch.bfloat16)
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    answers, peaks = {}, {}
    for contestant in contestants:
        peaks[contestant.name], answers[contestant.name] = peak_bytes(contestant, hidden, index, weights)
    for _ in range(ROUNDS):
        for contestant in contestants:
            began = time.monotonic()
            step(contestant, hidden, index, weights)
            seconds[contestant.name].append(time.monotonic() - began)
    fastest = min(map(min, seconds.values()))
    print(f"{given.tokens} tokens, {CHOSEN} of {given.experts} experts, {given.hidden} x {given.intermediate}, bf16")
    print(f"{'':<36}{'held, MB':>10}{'peak, MB':>10}{'seconds':>10}{'times the fastest':>20}")
    for contestant in contestants:
        took = statistics.median(seconds[contestant.name])
        held = sum(t.numel() * t.element_size() for t in contestant.module.state_dict().values()) / 1e6
        peak = peaks[contestant.name] / 1e6
        print(f"{contestant.name:<36}{held:>10.1f}{peak:>10.1f}{took:>10.3f}{took / fastest:>20.2f}")
    # PEFT rounds W + BA to bf16 before the product, ours the two products and their sum
    apart = (answers["PEFT, target_parameters"] - answers["ours, bf16"]).abs().max() / answers["ours, bf16"].abs().max()
    print(f"PEFT's answer and ours in bf16 are {apart:.1e} apart")
    return int(not apart < 0.05)


def make(given: argparse.Namespace) -> list[Contestant]:
    """Makes all contestants with the same weights, and those that adapt with the same adapters."""
    config = Qwen3_5MoeTextConfig(
        num_experts=given.experts,
        hidden_size=given.hidden,
        moe_intermediate_size=given.intermediate,
        num_experts_per_tok=CHOSEN,
    )
    plain = {kind: transformers_experts(config, kind, given.device) for kind in ("eager", "grouped_mm")}
    holder = nn.Module()
    holder.experts = transformers_experts(config, "grouped_mm", given.device)
    targets = LoraConfig(r=RANK, lora_alpha=RANK * SCALING, target_modules=[], target_parameters=[*WEIGHTS])
    wrapped: Any = inject_adapter_in_model(targets, holder)
    mine = {kind: ours(plain["eager"], given, nf4=kind == "NF4") for kind in ("bf16", "NF4")}
    adapt(wrapped.experts, mine)
    return [
        *(Contestant(f"transformers {kind}, no adapter", module, module) for kind, module in plain.items()),
        Contestant("PEFT, target_parameters", wrapped.experts, wrapped.experts),
        *(Contestant(f"ours, {kind}", module, module) for kind, module in mine.items()),
    ]


def transformers_experts(config: Any, kind: str, device: str) -> Any:
    config._experts_implementation = kind
    made = Qwen3_5MoeExperts(config).to(device, torch.bfloat16).requires_grad_(False)
    random = torch.Generator(device).manual_seed(0)
    for parameter in made.parameters():
        parameter.normal_(std=0.02, generator=random)
    return made


def ours(plain: Any, given: argparse.Namespace, *, nf4: bool) -> RoutedExperts:
    made = RoutedExperts(
        num_experts=given.experts,
        hidden=given.hidden,
        intermediate=given.intermediate,
        activation=plain.act_fn,
        nf4=nf4,
        dtype=torch.bfloat16,
        device=given.device,
    )
    for name, stack in made.stacks.items():
        for expert, weight in enumerate(getattr(plain, name)):
            stack.fill(expert * stack.out_features, weight)
    made.add_adapters(rank=RANK, scaling=SCALING, dropout=0.0)
    return made


def adapt(wrapped: Any, mine: dict[str, RoutedExperts]) -> None:
    """Gives all the same adapters; PEFT's outer wrapper is that of down_proj."""
    for name, wrapper in (("down_proj", wrapped), ("gate_up_proj", wrapped.base_layer)):
        assert wrapper.parameter_name == name
        torch.manual_seed(1)
        lora = mine["bf16"].adapters[name]
        nn.init.normal_(lora.lora_B, std=0.02)
        mine["NF4"].adapters[name].load_state_dict(lora.state_dict())
        a, b = wrapper.lora_A["default"].weight, wrapper.lora_B["default"].weight
        a.data.copy_(lora.lora_A.detach().reshape(a.shape))
        b.data.copy_(lora.lora_B.detach().permute(1, 2, 0).reshape(b.shape))


def step(contestant: Contestant, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """One forward and backward, gradients in place as in every micro-batch but the first."""
    states = hidden.detach().requires_grad_()
    answer = contestant.run(states, index, weights)
    answer.backward(torch.ones_like(answer))
    if hidden.is_cuda:
        torch.cuda.synchronize()
    return answer.detach()


def peak_bytes(
    contestant: Contestant, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor
) -> tuple[int, torch.Tensor]:
    """Gives the bytes at the peak beyond what is there before, and the answer."""
    step(contestant, hidden, index, weights)  # gradients, code tables
    if hidden.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        answer = step(contestant, hidden, index, weights)
        return torch.cuda.max_memory_allocated() - before, answer
    there = [*contestant.module.state_dict().values(), hidden, index, weights]
    with Alive(there + [p.grad for p in contestant.module.parameters() if p.grad is not None]) as alive:
        answer = step(contestant, hidden, index, weights)
    return alive.peak_bytes, answer


if __name__ == "__main__":
    raise SystemExit(main())
