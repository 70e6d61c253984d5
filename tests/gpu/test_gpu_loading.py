"""A base is loaded onto a GPU through one small pinned buffer, and quantised there as bitsandbytes does it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench import predicting
from bench.bases import Base
from bitsandbytes.functional import quantize_4bit
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file

from finetune.hardware import wished
from finetune.levers import Levers
from finetune.model import HostEmbedding, QuantisedHead, load_base
from finetune.plan import Plan
from finetune.shape import read_shape
from finetune.shards import shards

pytestmark = pytest.mark.gpu


@pytest.fixture
def plan(pico_base: Path) -> Plan:
    base = Base("pico", pico_base, read_shape(str(pico_base), pico_base))
    made = predicting.plan_of(base, wished("24GB"), 64)
    plain = Levers()
    return replace(made, choices=replace(made.choices, **{name: getattr(plain, name) for name in vars(plain)}))


def test_every_matrix_is_what_bitsandbytes_makes_of_the_published_one(pico_base: Path, plan: Plan) -> None:
    model = load_base(pico_base, plan)
    assert {p.device.type for p in model.parameters()} == {"cuda"}
    published: dict[str, torch.Tensor] = {}
    for file in shards(pico_base):
        published |= load_file(file)
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, Linear4bit)]
    assert len(linears) == 25
    for name, module in linears:
        weight = published[f"{name.replace('model.', 'model.language_model.', 1)}.weight"].cuda()
        packed, state = quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
        assert torch.equal(module.weight, packed), name
        assert torch.equal(module.weight.quant_state.absmax, state.absmax), name


def test_levers_put_the_vocabulary_where_the_plan_says(pico_base: Path, plan: Plan) -> None:
    levered = replace(plan, choices=replace(plan.choices, embeddings="host", head="nf4"))
    model = load_base(pico_base, levered)
    embedding, head = model.get_input_embeddings(), model.lm_head
    assert isinstance(embedding, HostEmbedding)
    assert embedding.weight.device.type == "cpu"
    assert isinstance(head, QuantisedHead)
    assert {buffer.device.type for buffer in head.buffers()} == {"cuda"}
    model.eval()
    ids = torch.arange(12, device="cuda")[None]
    plain = load_base(pico_base, plan).eval()
    with torch.no_grad():
        off = (model(ids).logits - plain(ids).logits).float().norm() / plain(ids).logits.float().norm()
    assert off < 0.15  # 4 bits round a weight by 9 %


def test_the_cache_gives_the_same_bits_back(pico_base: Path, plan: Plan, tmp_path: Path) -> None:
    first, second = (load_base(pico_base, plan, cache=tmp_path) for _ in range(2))
    assert any(tmp_path.iterdir())
    for (name, tensor), (_, other) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert tensor.device == other.device
        assert torch.equal(tensor, other), name
