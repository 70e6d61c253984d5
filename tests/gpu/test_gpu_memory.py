"""Peaks and gradients on a GPU: layers of the 27B's widths, its whole vocabulary, random weights, levers one by one.

Needs about 16 GB of GPU memory and 16 of the host's. The whole 27B is measured by scripts/bench_gpu.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench import predicting
from bench.agenda import Clock
from bench.bases import published
from bench.kernels import choose
from bench.parity import GOAL, Learnt, compare, learn_afresh
from bench.session import Session, enter, ids_of, leave, step
from bench.stacks import LEVER_SETS, TRL
from bench.steps import start_counting
from bench.weights import clean, make_model

from finetune.hardware import detect, wished
from finetune.model import QuantisedHead, add_adapter, causal_of

pytestmark = pytest.mark.gpu

NUM_LAYERS = 4
"""Three of Gated DeltaNet and one of attention."""

SEED = 3


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, gpu: torch.device) -> Session:
    folder = tmp_path_factory.mktemp("27b")
    base = published("Qwen/Qwen3.6-27B", folder, NUM_LAYERS)
    kernels = choose("cuda", detect().compute_capability)
    hardware = kernels.on(wished("24GB"))
    plan = predicting.plan_of(base, hardware, 64)
    model, vocabulary = make_model(base, plan, SEED)
    return Session(
        base=base,
        plan=plan,
        model=add_adapter(model, plan, dropout=0.0, seed=SEED),
        vocabulary=vocabulary,
        hardware=hardware,
        card=None,
        kernels=kernels,
        clock=Clock(0.0, lambda: 0.0, 0.0),
        free_at_start=0,
        most_tokens=0,
        step_tokens=256,
        folder=folder,
        results={},
    )


@pytest.mark.parametrize("tokens", [1024, 4096, 16_384])
@pytest.mark.parametrize("stack", LEVER_SETS)
def test_the_peak_is_within_three_percent_of_the_plans(session: Session, stack: str, tokens: int) -> None:
    levers = LEVER_SETS[stack]
    assert enter(session, stack, tokens)
    clean()
    start_counting()
    for _ in range(2):
        step(session, tokens)
    promised = predicting.promise(session.base, session.hardware, levers, tokens)
    measured = torch.cuda.max_memory_allocated()
    assert promised.allocated_bytes == pytest.approx(measured, rel=0.03), promised.moment


@pytest.mark.parametrize("stack", ["plain", "all together"])
def test_what_stays_between_steps_is_what_the_plan_counts(session: Session, stack: str) -> None:
    assert enter(session, stack, 1024)
    clean()
    promised = predicting.promise(session.base, session.hardware, LEVER_SETS[stack], 1024)
    workspace = 64 * 2**20  # cuBLAS keeps 8 to 32 MiB in PyTorch's pool, which the plan counts among the gaps
    assert 0 <= torch.cuda.memory_allocated() - promised.static_bytes <= workspace + 0.01 * promised.static_bytes


def learnt(session: Session, stack: str, tokens: int) -> Learnt:
    assert enter(session, stack, tokens)
    assert session.active is not None
    return learn_afresh(session.model, session.active.loss_of, ids_of(session, tokens), SEED)


@pytest.mark.parametrize("stack", [name for name in (*LEVER_SETS, TRL) if name != "plain" and "adamw" not in name])
def test_gradients_under_a_lever_are_those_of_the_plain_stack(session: Session, stack: str) -> None:
    """In bfloat16. A quantised head is compared with a plain one of the weights that it restores."""
    vocabulary = session.vocabulary
    told = learnt(session, stack, 1024)
    head = causal_of(session.model).lm_head
    if isinstance(head, QuantisedHead):
        restored = torch.cat([rows.cpu() for _, rows in head.tiles()])
        session.vocabulary = replace(vocabulary, head=restored)
    try:
        leave(session)
        truth = learnt(session, "plain", 1024)
    finally:
        session.vocabulary = vocabulary
        leave(session)
    found = compare(told, truth)
    assert found["least_cosine"] >= GOAL, found["least_cosine_of"]
    assert found["norm_ratio"] == pytest.approx(1, abs=0.01)  # bfloat16 rounds by 0.4 %
    assert found["loss_off"] < 1e-3


def test_an_emulated_card_runs_out_of_memory_where_the_real_one_would(gpu: torch.device) -> None:
    from bench.ballast import GRANULARITY, free_now, on_cuda

    weight, wanted = on_cuda(), 2 * 2**30
    clean()
    before = free_now()
    weight.load(free_now, wanted)
    try:
        assert wanted <= free_now() < wanted + GRANULARITY
        torch.empty(2**30, dtype=torch.uint8, device=gpu)
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(3 * 2**30, dtype=torch.uint8, device=gpu)
    finally:
        weight.drop()
    clean()
    assert free_now() >= before - 2**28  # what kernels were loaded meanwhile stays


def test_the_gated_delta_rule_that_runs_here_has_right_gradients(session: Session) -> None:
    if session.kernels.errors is None:
        pytest.skip(f"the torch reference runs here: {session.kernels.why}")
    assert max(session.kernels.errors.values()) < 0.03


def test_the_adapter_is_where_the_plan_says(session: Session, tmp_path: Path) -> None:
    enter(session, "plain", 64)
    assert {p.device.type for p in session.model.parameters()} == {"cuda"}
    enter(session, "embeddings on the host", 64)
    assert causal_of(session.model).get_input_embeddings().weight.device.type == "cpu"
