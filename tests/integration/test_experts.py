"""Routed experts in one process against transformers' own, PEFT's layout, and bitsandbytes' NF4."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from bitsandbytes import functional as bnb
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen3_5MoeTextConfig
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeExperts

from finetune.experts import WEIGHTS, RoutedExperts
from finetune.experts.layouts import from_each_expert, from_peft, to_each_expert, to_peft
from finetune.experts.routing import add_up

EXPERTS, HIDDEN, INTERMEDIATE, CHOSEN, RANK, SCALING = 8, 128, 64, 2, 3, 2.0


@pytest.fixture
def plain() -> Qwen3_5MoeExperts:
    """transformers' experts, in a loop over experts."""
    torch.manual_seed(0)
    config = Qwen3_5MoeTextConfig(
        num_experts=EXPERTS, hidden_size=HIDDEN, moe_intermediate_size=INTERMEDIATE, num_experts_per_tok=CHOSEN
    )
    config._experts_implementation = "eager"
    made = Qwen3_5MoeExperts(config)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return made


def ours(plain: Qwen3_5MoeExperts, *, nf4: bool, dtype: torch.dtype = torch.float32) -> RoutedExperts:
    """The same experts as ours; in NF4 `plain` is given what is left of its weights."""
    made = RoutedExperts(
        num_experts=EXPERTS,
        hidden=HIDDEN,
        intermediate=INTERMEDIATE,
        activation=plain.act_fn,
        nf4=nf4,
        dtype=dtype,
        device="cpu",
    )
    for name, stack in made.stacks.items():
        weight = getattr(plain, name).data
        rows = weight.reshape(-1, weight.shape[-1])
        for first in reversed(range(0, len(rows), 16)):  # in any order
            stack.fill(first, rows[first : first + 16])
        weight.copy_(stack.whole(0, EXPERTS))
    return made


def adapted(experts: RoutedExperts, dropout: float = 0.0) -> RoutedExperts:
    torch.manual_seed(1)
    experts.add_adapters(rank=RANK, scaling=SCALING, dropout=dropout)
    for lora in experts.adapters.values():
        torch.nn.init.normal_(lora.lora_B, std=0.05)
    return experts


def routed(tokens: int, num_experts: int = EXPERTS) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    hidden = torch.randn(tokens, HIDDEN, requires_grad=True)
    index = torch.stack([torch.randperm(num_experts)[:CHOSEN] for _ in range(tokens)])
    return hidden, index, torch.rand(tokens, CHOSEN, requires_grad=True)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference, as a share of the largest number."""
    return ((one - other).abs().max() / other.abs().max()).item()


@pytest.mark.parametrize("num_rows", [0, 3, 37, 255, 256])
def test_rows_are_added_up_whatever_share_of_the_places_is_here(num_rows: int) -> None:
    torch.manual_seed(0)
    places, rows = torch.randperm(64 * 4)[:num_rows], torch.randn(num_rows, 5)
    every = torch.zeros(64 * 4, 5).index_copy(0, places, rows).view(64, 4, 5)
    assert torch.equal(add_up(rows, places, 64, 4), every.sum(1))


@pytest.mark.parametrize("nf4", [False, True], ids=["plain", "nf4"])
@pytest.mark.parametrize("tokens", [1, 40])
def test_frozen_experts_answer_as_those_of_transformers(
    plain: Qwen3_5MoeExperts, nf4: bool, tokens: int, within: Any
) -> None:
    experts, given = ours(plain, nf4=nf4), routed(tokens)
    hidden, index, weights = given
    wanted = plain(hidden, index, weights)
    gradient = torch.randn_like(wanted)
    expected = torch.autograd.grad(wanted, (hidden, weights), gradient)
    got = experts(hidden, index, weights)
    found = torch.autograd.grad(got, (hidden, weights), gradient)
    # sums of 64 and 128 float32 products, in another order
    kind = "NF4, against its dequantised weights" if nf4 else "float32, against transformers"
    within(f"one layer, {kind}: answers", apart(got, wanted), 1e-6)
    off = max(apart(one, other) for one, other in zip(found, expected, strict=True))
    within(f"one layer, {kind}: their gradients", off, 1e-6)


@pytest.mark.parametrize("nf4", [False, True], ids=["plain", "nf4"])
def test_adapters_learn_what_they_would_inside_the_weights(plain: Qwen3_5MoeExperts, nf4: bool, within: Any) -> None:
    experts, (hidden, index, weights) = adapted(ours(plain, nf4=nf4)), routed(40)
    for name, lora in experts.adapters.items():
        getattr(plain, name).data += SCALING * lora.lora_B.detach() @ lora.lora_A.detach()
    wanted = plain(hidden, index, weights)
    gradient = torch.randn_like(wanted)
    wanted.backward(gradient)
    got = experts(hidden, index, weights)
    got.backward(gradient)
    kind = "NF4" if nf4 else "float32"
    within(f"one layer with LoRA, {kind}: answers", apart(got, wanted), 1e-5)
    for name, lora in experts.adapters.items():
        of_weight = SCALING * getattr(plain, name).grad
        for grad, wanted_grad in (
            (lora.lora_A.grad, lora.lora_B.detach().mT @ of_weight),
            (lora.lora_B.grad, of_weight @ lora.lora_A.detach().mT),
        ):
            within(f"one layer with LoRA, {kind}: gradients of adapters", apart(grad, wanted_grad), 1e-5)


def test_nf4_is_that_of_bitsandbytes_expert_by_expert(plain: Qwen3_5MoeExperts) -> None:
    weights = {name: getattr(plain, name).detach().clone() for name in WEIGHTS}
    for name, stack in ours(plain, nf4=True).stacks.items():
        for expert in range(EXPERTS):
            packed, state = bnb.quantize_4bit(
                weights[name][expert].contiguous(), quant_type="nf4", compress_statistics=True
            )
            assert torch.equal(stack.packed[expert], packed.view(-1))
            assert torch.equal(stack.scales[expert], state.absmax)
            assert torch.equal(stack.nested[expert], state.state2.absmax)
            assert torch.equal(stack.offset[expert], state.offset)
            assert torch.equal(stack.whole(expert, expert + 1)[0], bnb.dequantize_4bit(packed, state))


def test_an_expert_without_rows_gets_a_gradient_of_zero(plain: Qwen3_5MoeExperts) -> None:
    experts, (hidden, index, weights) = adapted(ours(plain, nf4=True)), routed(40, num_experts=3)
    experts(hidden, index, weights).sum().backward()
    for lora in experts.adapters.values():
        for grad in (lora.lora_A.grad, lora.lora_B.grad):
            assert [bool(of_expert.any()) for of_expert in grad] == [True] * 3 + [False] * 5


def test_all_tokens_may_choose_the_same_experts(plain: Qwen3_5MoeExperts) -> None:
    experts, (hidden, index, weights) = ours(plain, nf4=True), routed(40)
    index[:] = torch.tensor([7, 0])
    assert apart(experts(hidden, index, weights), plain(hidden, index, weights)) < 1e-6


def test_dropout_is_of_the_adapters_and_of_training_alone(plain: Qwen3_5MoeExperts) -> None:
    experts, (hidden, index, weights) = adapted(ours(plain, nf4=False), dropout=0.5), routed(40)
    quiet = adapted(ours(plain, nf4=False))
    torch.manual_seed(0)
    assert apart(experts(hidden, index, weights), quiet(hidden, index, weights)) > 0.01
    experts.eval()
    assert torch.equal(experts(hidden, index, weights), quiet(hidden, index, weights))
    experts.adapted = False
    assert torch.equal(experts(hidden, index, weights), ours(plain, nf4=False)(hidden, index, weights))


def test_in_bfloat16_the_answer_is_within_its_noise(plain: Qwen3_5MoeExperts, within: Any) -> None:
    experts, (hidden, index, weights) = adapted(ours(plain, nf4=True, dtype=torch.bfloat16)), routed(40)
    exact = adapted(ours(plain, nf4=True))(hidden, index, weights)
    got = experts(hidden.bfloat16(), index, weights)
    assert got.dtype == torch.bfloat16
    within("one layer with LoRA, NF4, bfloat16: answers", apart(got.float(), exact), 0.02)  # 8 bits, twice rounded


class Largest(TorchDispatchMode):
    """Notes the most floating-point numbers that one tensor made meanwhile has."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                self.numbers = max(self.numbers, tensor.numel())
        return out


def test_the_weights_of_a_layer_are_never_whole_together(plain: Qwen3_5MoeExperts) -> None:
    experts, (hidden, index, weights) = adapted(ours(plain, nf4=True)), routed(12)
    for stack in experts.stacks.values():
        stack.at_once = 2
    with Largest() as largest:
        experts(hidden, index, weights).sum().backward()
    assert largest.numbers == 2 * (2 * INTERMEDIATE) * HIDDEN


@pytest.mark.parametrize(("write", "read"), [(to_peft, from_peft), (to_each_expert, from_each_expert)])
def test_a_layout_reads_back_what_it_wrote(write, read) -> None:  # type: ignore[no-untyped-def]
    adapters = {
        "gate_up_proj": (torch.randn(EXPERTS, RANK, HIDDEN), torch.randn(EXPERTS, 2 * INTERMEDIATE, RANK)),
        "down_proj": (torch.randn(EXPERTS, RANK, INTERMEDIATE), torch.randn(EXPERTS, HIDDEN, RANK)),
    }
    back = read("mlp.experts", write("mlp.experts", adapters), EXPERTS)
    assert all(torch.equal(back[name][i], adapters[name][i]) for name, i in product(WEIGHTS, (0, 1)))


def test_each_expert_has_three_matrices_with_two_sides() -> None:
    adapters = {
        "gate_up_proj": (torch.randn(2, RANK, HIDDEN), torch.randn(2, 2 * INTERMEDIATE, RANK)),
        "down_proj": (torch.randn(2, RANK, INTERMEDIATE), torch.randn(2, HIDDEN, RANK)),
    }
    written = to_each_expert("e", adapters)
    assert {name: tuple(tensor.shape) for name, tensor in written.items() if name.startswith("e.1.")} == {
        "e.1.gate_proj.lora_A.weight": (RANK, HIDDEN),
        "e.1.gate_proj.lora_B.weight": (INTERMEDIATE, RANK),
        "e.1.up_proj.lora_A.weight": (RANK, HIDDEN),
        "e.1.up_proj.lora_B.weight": (INTERMEDIATE, RANK),
        "e.1.down_proj.lora_A.weight": (RANK, INTERMEDIATE),
        "e.1.down_proj.lora_B.weight": (HIDDEN, RANK),
    }
    assert len(written) == 12
