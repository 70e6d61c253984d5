"""Inputs that wait on the host: every one comes back as it was, and its place is taken again once nobody needs it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from finetune.model import HostCheckpoints
from finetune.model.offloading import ALIGNMENT, on_device

NUM_LAYERS = 5
WIDTH = 8


class Watched(HostCheckpoints):
    """Notes which copies were on the device when another came."""

    def __init__(self) -> None:
        super().__init__(NUM_LAYERS)
        self.fetched: list[weakref.ref[torch.Tensor]] = []
        self.most_at_once = 0

    def _fetch(self, kept: Any) -> Any:
        told = super()._fetch(kept)
        self.fetched.append(weakref.ref(told[0]))
        self.most_at_once = max(self.most_at_once, sum(tensor() is not None for tensor in self.fetched))
        return told

    @property
    def addresses(self) -> list[int]:
        return [slab.memory.data_ptr() for slab in self._slabs]

    @property
    def num_taken(self) -> int:
        return sum(slab.num_taken for slab in self._slabs)


@pytest.fixture
def layers() -> nn.ModuleList:
    torch.manual_seed(0)
    layer = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.3), nn.Tanh()) for _ in range(NUM_LAYERS)]
    return nn.ModuleList(layer)


def forward(layers: nn.ModuleList, run: Callable[..., torch.Tensor], tokens: int, seed: int = 1) -> torch.Tensor:
    torch.manual_seed(seed)
    hidden = torch.randn(tokens, WIDTH)
    for layer in layers:
        hidden = run(layer, hidden)
    return hidden.square().sum()


def gradients(layers: nn.ModuleList, *losses: torch.Tensor) -> list[torch.Tensor]:
    layers.zero_grad()
    for loss in losses:
        loss.backward()
    return [p.grad.clone() for p in layers.parameters() if p.grad is not None]


def same(told: list[torch.Tensor], truth: list[torch.Tensor]) -> bool:
    return len(told) == len(truth) == 2 * NUM_LAYERS and all(
        torch.equal(*pair) for pair in zip(told, truth, strict=True)
    )


def host_bytes(tokens: int) -> int:
    return NUM_LAYERS * -(-tokens * WIDTH * 4 // ALIGNMENT) * ALIGNMENT


def test_gradients_are_bit_for_bit_those_of_inputs_that_stayed(layers: nn.ModuleList) -> None:
    host = Watched()
    told = gradients(layers, forward(layers, host.run, 7))
    assert same(told, gradients(layers, forward(layers, on_device, 7)))


def test_only_the_inputs_go_to_the_host_and_two_at_most_are_back_at_a_time(layers: nn.ModuleList) -> None:
    host = Watched()
    loss = forward(layers, host.run, 7)
    assert host.num_taken == NUM_LAYERS
    assert host.host_bytes == host_bytes(7)
    loss.backward()
    assert len(host.fetched) == NUM_LAYERS
    assert host.most_at_once == 2
    assert host.num_taken == 0


def test_the_next_step_fills_the_same_memory_and_a_longer_batch_replaces_it(layers: nn.ModuleList) -> None:
    host = Watched()
    seen = []
    for tokens in (60, 60, 7, 70, 200, 60):
        told = gradients(layers, forward(layers, host.run, tokens))
        assert same(told, gradients(layers, forward(layers, on_device, tokens)))
        (address,) = host.addresses
        seen.append((address, host.host_bytes))
    assert seen[0] == seen[1] == seen[2]
    assert [held for _, held in seen] == [host_bytes(n) for n in (60, 60, 60, 70, 200, 200)]


def test_two_micro_batches_before_their_backward_keep_apart(layers: nn.ModuleList) -> None:
    host = Watched()
    told = gradients(layers, *[forward(layers, host.run, 7, seed) for seed in (1, 2)])
    truth = gradients(layers, *[forward(layers, on_device, 7, seed) for seed in (1, 2)])
    assert same(told, truth)
    assert host.host_bytes == 2 * host_bytes(7)
    gradients(layers, forward(layers, host.run, 7))
    assert host.host_bytes == host_bytes(7), "what two at once had needed is given back"


def test_backward_through_a_graph_that_is_kept_gives_the_same_again(layers: nn.ModuleList) -> None:
    host = Watched()
    loss = forward(layers, host.run, 7)
    layers.zero_grad()
    loss.backward(retain_graph=True)
    once = [p.grad.clone() for p in layers.parameters() if p.grad is not None]
    assert same(gradients(layers, loss), once)
    assert host.num_taken == 0


@pytest.mark.parametrize("backward", [False, True])
def test_an_exception_in_the_middle_leaves_nothing_behind(layers: nn.ModuleList, backward: bool) -> None:
    host = Watched()
    calls = 0

    def stumble(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == (2 if backward else 1):
            raise KeyError("stumbled")

    handle = layers[2].register_forward_pre_hook(stumble)
    with pytest.raises(KeyError, match="stumbled"):
        forward(layers, host.run, 7).backward()
    handle.remove()
    gc.collect()  # the exception's frames
    assert host.num_taken == 0
    told = gradients(layers, forward(layers, host.run, 7))
    assert same(told, gradients(layers, forward(layers, on_device, 7)))
    assert host.host_bytes == host_bytes(7)


def test_without_a_gradient_nothing_goes_to_the_host(layers: nn.ModuleList) -> None:
    host = Watched()
    told = forward(layers, host.run, 7)
    with torch.no_grad():
        scored = forward(layers, host.run, 700)
    assert host.host_bytes == host_bytes(7)
    assert torch.equal(scored, forward(layers, on_device, 700))
    assert same(gradients(layers, told), gradients(layers, forward(layers, on_device, 7)))


def test_inputs_in_16_bits_lie_on_whole_blocks(layers: nn.ModuleList) -> None:
    host = Watched()
    layers.bfloat16()
    hidden = torch.randn(7, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    out = hidden
    for layer in layers:
        out = host.run(layer, out)
    assert host.host_bytes == NUM_LAYERS * ALIGNMENT
    out.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.bfloat16
