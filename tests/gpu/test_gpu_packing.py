"""Packs on a GPU: the functions that finetune.model.apart puts in place, against each example alone. Never run yet."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial import in_process
from trial.small_run import write_recipe

from finetune.model import keep_apart
from finetune.model.apart import CONVOLUTION, RULE
from finetune.train.batches import apart

pytestmark = pytest.mark.gpu

LENGTHS = [5, 64, 1, 131, 63]
"""Borders inside a chunk of 64 tokens, at its end, and after a single token."""


@pytest.fixture(scope="module")
def modelling(gpu: torch.device) -> object:
    pytest.importorskip("fla")
    keep_apart("cuda")
    return importlib.import_module("transformers.models.qwen3_5.modeling_qwen3_5")


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).float().norm() / other.float().norm()).item()


def test_the_convolution_keeps_examples_apart_forward_and_backward(modelling: object, gpu: torch.device) -> None:
    torch.manual_seed(0)
    states = torch.randn(1, sum(LENGTHS), 10_240, device=gpu, dtype=torch.bfloat16).transpose(1, 2).requires_grad_()
    weight = torch.randn(10_240, 4, device=gpu, dtype=torch.bfloat16, requires_grad=True)
    borders = {name: t for name, t in apart(LENGTHS, gpu).items() if name != "position_ids"}
    convolve = getattr(modelling, CONVOLUTION)
    packed = convolve(states, weight, None, activation="silu", **borders)
    alone = torch.cat([convolve(s, weight, None, activation="silu") for s in states.split(LENGTHS, dim=2)], dim=2)
    grad = torch.randn_like(alone)
    gradients = [torch.autograd.grad(out, (states, weight), grad) for out in (packed, alone)]
    assert distance(packed, alone) < 0.01  # bfloat16 rounds by 0.4 %
    assert all(distance(one, other) < 0.01 for one, other in zip(*gradients, strict=True))


def test_the_rule_keeps_examples_apart_forward_and_backward(modelling: object, gpu: torch.device) -> None:
    torch.manual_seed(0)
    tokens = sum(LENGTHS)
    q, k = (torch.randn(1, tokens, 16, 128, device=gpu, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    v = torch.randn(1, tokens, 48, 128, device=gpu, dtype=torch.bfloat16, requires_grad=True)
    g = -torch.rand(1, tokens, 48, device=gpu).requires_grad_()
    beta = torch.rand(1, tokens, 48, device=gpu, dtype=torch.bfloat16).requires_grad_()
    rule, given = getattr(modelling, RULE), (q, k, v, g, beta)
    borders = apart(LENGTHS, gpu)["cu_seq_lens_q"]
    packed, _ = rule(q, k, v, g=g, beta=beta, use_qk_l2norm_in_kernel=True, cu_seqlens=borders)
    pieces = zip(*(tensor.split(LENGTHS, dim=1) for tensor in given), strict=True)
    alone = torch.cat([rule(a, b, c, g=d, beta=e, use_qk_l2norm_in_kernel=True)[0] for a, b, c, d, e in pieces], dim=1)
    grad = torch.randn_like(alone)
    gradients = [torch.autograd.grad(out, given, grad) for out in (packed, alone)]
    assert distance(packed, alone) < 0.01
    assert all(distance(one, other) < 0.02 for one, other in zip(*gradients, strict=True))


def test_a_whole_packed_run_tries_its_examples_and_trains(modelling: object, pico_base: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, pico_base, num_rows=16, long_row=False)
    wishes = ("method=lora", "data.packing=true", "data.max_length=256", "memory.micro_batch=null")
    run, dataset = in_process.begin(recipe, tmp_path / "runs", "train.max_steps=3", *wishes)
    told = in_process.train(run, dataset).entry["claims"]
    claims = [claim for claim in told if claim["claim"].startswith("packing")]
    assert len(claims) == 2
    assert all(claim["holds"] for claim in claims)
