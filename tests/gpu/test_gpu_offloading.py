"""Inputs of layers leave for the host and come back beside the work, and not a bit of a gradient changes."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

from finetune.model import HostCheckpoints, HostEmbedding
from finetune.model.offloading import on_device

pytestmark = pytest.mark.gpu

TOKENS, WIDTH, NUM_LAYERS = 8192, 4096, 6

Run = Callable[[Callable[[torch.Tensor], torch.Tensor], torch.Tensor], torch.Tensor]


def layers(gpu: torch.device) -> nn.ModuleList:
    """Layers of plain products, whose kernels give the same bits each time."""
    torch.manual_seed(0)
    made = [nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), nn.SiLU()) for _ in range(NUM_LAYERS)]
    return nn.ModuleList(made).to(gpu, torch.bfloat16)


def forward(model: nn.ModuleList, hidden: torch.Tensor, run: Run) -> torch.Tensor:
    for layer in model:
        hidden = hidden + run(layer, hidden)
    return hidden


def example(gpu: torch.device) -> torch.Tensor:
    return torch.randn(TOKENS, WIDTH, device=gpu, dtype=torch.bfloat16, requires_grad=True)


def test_gradients_are_bit_for_bit_those_of_inputs_that_stayed(gpu: torch.device) -> None:
    model, hidden = layers(gpu), example(gpu)
    host = HostCheckpoints(NUM_LAYERS)
    told = []
    for run in (on_device, host.run, host.run):  # the second time the same host memory is filled anew
        model.zero_grad()
        hidden.grad = None
        forward(model, hidden, run).float().square().mean().backward()
        assert hidden.grad is not None
        told.append([hidden.grad.clone(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert len(told[0]) == 1 + NUM_LAYERS
    for other in told[1:]:
        assert all(torch.equal(*pair) for pair in zip(told[0], other, strict=True))
    assert host.host_bytes == NUM_LAYERS * TOKENS * WIDTH * 2


def test_host_memory_is_pinned_and_the_python_side_waits_for_nothing(gpu: torch.device) -> None:
    model, hidden = layers(gpu), example(gpu)
    host = HostCheckpoints(NUM_LAYERS)
    forward(model, hidden, host.run).sum().backward()  # takes and pins the memory
    assert all(slab.memory.is_pinned() for slab in host._slabs)
    torch.cuda.synchronize()
    cycles = int(1e9)  # about half a second of nothing on any GPU
    torch.cuda._sleep(cycles)
    asleep = torch.cuda.Event()
    asleep.record()
    started = time.perf_counter()
    forward(model, hidden, host.run).sum().backward()
    elapsed = time.perf_counter() - started
    assert not asleep.query(), "forward and backward were queued while the GPU had not even begun"
    torch.cuda.synchronize()
    assert elapsed < 0.25


def test_copies_run_beside_the_layers(gpu: torch.device) -> None:
    """On one stream the copies would add to the work; beside it they take less than half of what they take alone."""
    model, hidden = layers(gpu), example(gpu)
    host = HostCheckpoints(NUM_LAYERS)

    def seconds(run: Callable[[], object]) -> float:
        run()
        torch.cuda.synchronize()
        best = float("inf")
        for _ in range(3):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
            best = min(best, start.elapsed_time(end) / 1000)
        return best

    pinned = torch.empty(hidden.shape, dtype=hidden.dtype, pin_memory=True)

    def copy_all() -> None:
        for _ in range(NUM_LAYERS):
            pinned.copy_(hidden.detach(), non_blocking=True)
            hidden.detach().copy_(pinned, non_blocking=True)

    stays = seconds(lambda: forward(model, hidden, on_device).sum().backward())
    leaves = seconds(lambda: forward(model, hidden, host.run).sum().backward())
    alone = seconds(copy_all)
    assert leaves <= max(stays, alone) + 0.5 * min(stays, alone)


def test_after_an_exception_in_backward_the_host_memory_is_used_again(gpu: torch.device) -> None:
    model, hidden = layers(gpu), example(gpu)
    host = HostCheckpoints(NUM_LAYERS)

    def fails(_: torch.Tensor) -> None:
        raise RuntimeError("as if out of memory")

    out = forward(model, hidden, host.run)
    out.register_hook(fails)
    with pytest.raises(RuntimeError, match="as if"):
        out.sum().backward()
    del out
    before = host.host_bytes
    forward(model, hidden, host.run).sum().backward()
    assert host.host_bytes == before


def test_rows_of_an_embedding_on_the_host_are_those_of_the_matrix(gpu: torch.device) -> None:
    weight = torch.randn(1000, 64).bfloat16()
    embedding = HostEmbedding(weight).to(gpu)
    ids = torch.randint(0, 1000, (2, 77), device=gpu)
    rows = embedding(ids)
    assert rows.device == gpu
    assert embedding.weight.device.type == "cpu"
    assert torch.equal(rows.cpu(), weight[ids.cpu()])
