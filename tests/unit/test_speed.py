"""The roofline against the figures that it was made from.

"Facts" are the project's own tables of the 27B: FLOP and traffic were counted, tokens a second are a roofline with the
efficiencies that finetune.speed states. Nothing here was timed.
"""

from dataclasses import replace

import pytest
from test_memory import DENSE, GATES, LINEARS, MIXTURE, VOCABULARY, job

from finetune.cards import CARDS
from finetune.levers import Levers
from finetune.speed import (
    CPU,
    DEQUANTISED_BYTES,
    DEQUANTISED_PASSES,
    REFERENCE_SLOWDOWN,
    Work,
    attention_flops_per_token,
    efficiency,
    flops_per_token,
    head_flops_per_token,
    step_seconds,
)

ONE = Work(8192, 8192, 1)
"""One example of 8,192 tokens, all of them learnt."""


PLAIN = Levers()


def seconds(levers: Levers = PLAIN, card: str = "rtx4090", work: Work = ONE, **changes: object) -> float:
    return step_seconds(job(length=8192, **changes), levers, work, CARDS[card])  # type: ignore[arg-type]


def test_a_token_of_the_27b_takes_six_flop_a_weight() -> None:
    made = job()
    assert flops_per_token(made) - 8 * made.num_trained == 6 * LINEARS  # forward, forward again, gradient of the input
    # facts: 152.5 GFLOP = 6 x 24.35 G + 5 x 1.27 G, whose head is made with its gradient in one pass. Ours makes each
    # product again in backward, so it counts 6, of learnt tokens only; and it does not count in_proj_a and in_proj_b
    facts = 6 * (LINEARS + GATES) + 5 * VOCABULARY
    assert facts == pytest.approx(152.5e9, rel=1e-3)
    ours = 6 * LINEARS + head_flops_per_token(made)
    assert ours - facts == VOCABULARY - 6 * GATES
    assert ours == pytest.approx(facts, rel=0.01)


def test_every_weight_trained_takes_eight() -> None:
    made = job(rank=0, nf4=False)
    assert flops_per_token(made) == 8 * LINEARS
    assert head_flops_per_token(made) == 8 * VOCABULARY


def test_of_a_mixture_only_the_experts_that_a_token_goes_to_count() -> None:
    made = job(MIXTURE)
    active = made.weights.linears + made.weights.experts * 8 // 256
    assert flops_per_token(made) - 8 * made.num_trained == 6 * active
    assert active == pytest.approx(2.44e9, rel=0.02)  # facts: 2.44 G, routers and gates among them


def test_attention_is_a_twentieth_at_8k_and_a_fifth_at_32k() -> None:
    for length, share in ((8192, 0.05), (32_768, 0.19)):  # facts
        made = job(length=length)
        assert attention_flops_per_token(made) / 152.5e9 == pytest.approx(share, abs=0.005)


def test_dequantising_moves_61_gigabytes_a_pass() -> None:
    moved = DEQUANTISED_BYTES * LINEARS
    assert moved == pytest.approx(61e9, rel=0.01)  # facts
    # on a bandwidth of 1,008 GB/s, of which nine tenths are reached: 0.2 s for three passes; facts say so too
    saved = seconds() - seconds(nf4=False)
    assert saved == pytest.approx(DEQUANTISED_PASSES * moved / (0.9 * 1008e9), rel=0.01)
    assert saved == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize(
    ("card", "facts"),
    # column "HF+PEFT+bnb+fla" of the facts' roofline
    [("rtx3090", 300), ("rtx4090", 562), ("a10", 308), ("l4", 209), ("h100", 2232), ("h200", 2669)],
)
def test_tokens_a_second_are_those_of_the_facts_roofline(card: str, facts: float) -> None:
    assert ONE.tokens / seconds(card=card) == pytest.approx(facts, rel=0.1)


def test_tokens_that_are_not_learnt_cost_no_head() -> None:
    some = seconds(work=replace(ONE, learnt=2048))
    flops = (8192 - 2048) * 6 * VOCABULARY
    assert seconds() - some == pytest.approx(flops / (165e12 * 0.88), rel=1e-6)


def test_smaller_micro_batches_are_slower_by_what_is_dequantised_again() -> None:
    again = seconds(work=replace(ONE, micro_steps=4)) - seconds()
    assert again == pytest.approx(3 * 3 * DEQUANTISED_BYTES * LINEARS / (0.9 * 1008e9), rel=1e-6)


def test_without_kernels_the_step_is_four_times_as_long() -> None:
    made, card = job(length=8192), CARDS["rtx4090"]
    slow = step_seconds(replace(made, kernels=False), Levers(), ONE, card)
    assert slow / step_seconds(made, Levers(), ONE, card) == pytest.approx(REFERENCE_SLOWDOWN, rel=0.01)
    on_cpu = replace(made, cuda=False, kernels=False)
    assert step_seconds(on_cpu, Levers(), ONE, CPU) == step_seconds(replace(on_cpu, kernels=True), Levers(), ONE, CPU)


def test_copies_to_the_host_hide_behind_the_work_and_no_lever_is_free() -> None:
    plain = seconds()
    for lever in (Levers(checkpoints="host"), Levers(checkpoints="host", recompute="halves"), Levers(head="nf4")):
        assert plain < seconds(lever) < 1.05 * plain
    # on a slot a hundredth as fast the copies decide: 64 inputs of 10,240 bytes a token, there and back
    card = replace(CARDS["rtx4090"], host_bandwidth=25e7)
    copied = 8192 * 2 * 64 * 10_240 / 25e7
    slow = step_seconds(job(length=8192), Levers(checkpoints="host"), ONE, card)
    assert copied < slow < copied + 0.2 * plain


def test_a_card_that_is_not_listed_gets_the_efficiency_of_its_kind() -> None:
    assert efficiency(CARDS["rtx5090"]) == 0.85
    assert efficiency(CARDS["b200"]) == 0.6
    assert (
        efficiency(replace(CARDS["rtx3090"], name="24GB", speed_of="rtx3090")) == efficiency(CARDS["rtx3090"]) == 0.88
    )
    assert efficiency(CPU) == 1.0


def test_the_small_base_on_two_cores_is_as_fast_as_measured() -> None:
    # the demo base: 35 MFLOP a token, 1,213 tokens a second on two cores
    assert CPU.bf16_flops == pytest.approx(35e6 * 1213, rel=0.1)


def test_the_dense_base_is_the_slower_one() -> None:
    # a tenth of the arithmetic, but all experts are made whole
    assert seconds(base=DENSE) > 3.5 * seconds(base=MIXTURE)


def test_experts_that_are_spread_are_made_whole_by_those_that_hold_them_and_the_fullest_of_them_is_waited_for() -> None:
    tiny, large = Work(64, 64, 1), Work(65_536, 65_536, 1)
    spread = {"base": MIXTURE, "processes": 8, "expert": 8}
    assert seconds(work=tiny, **spread) < seconds(work=tiny, base=MIXTURE)
    assert seconds(work=large, **spread) > seconds(work=large, base=MIXTURE)
