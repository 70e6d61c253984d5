"""Bytes are arithmetic: every figure here can be checked by hand.

Where a figure says "facts", it stands in the project's own measurements of the 27B (byte budget, section 2): exact
counts from the published shapes and from the libraries' sources.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.hardware import CONTEXT_BYTES
from finetune.levers import POSITIONS, Levers
from finetune.memory import (
    NF4_BYTES,
    Budget,
    Job,
    adapter_shapes,
    budget,
    count_weights,
    head_bytes,
    layer_moments,
    loss_moments,
    num_trainable,
    read_widths,
    state_bytes,
    weight_parts,
)
from finetune.memory.budget import FRAGMENTATION, PROCESS_BYTES, WORKSPACE_BYTES
from finetune.shape import FAMILY_MODULES, ModelShape, read_shape

GIB = 2**30
DENSE, MIXTURE = "Qwen/Qwen3.6-27B", "Qwen/Qwen3.6-35B-A3B"
LINEARS = 24_326_963_200
"""Of the 27B, without in_proj_a and in_proj_b. Facts, section 1."""
GATES = 23_592_960
"""Of its in_proj_a and in_proj_b: 48 layers x 2 x 48 heads x 5,120."""
VOCABULARY = 248_320 * 5120


@cache
def shape_of(base: str) -> ModelShape:
    return read_shape(base, None)


def job(base: str = DENSE, *, rank: int = 16, nf4: bool = True, **changes: Any) -> Job:
    shape = shape_of(base)
    trained = adapter_shapes(shape.linears(tuple(FAMILY_MODULES)), rank)
    made = Job(
        widths=read_widths(shape),
        weights=count_weights(shape),
        num_trained=num_trainable(trained),
        states={name: state_bytes(trained, name) for name in POSITIONS["optimizer"]},  # type: ignore[arg-type]
        rank=rank,
        dropout=False,
        nf4=nf4,
        e=2,
        kernels=True,
        cuda=True,
        length=4096,
    )
    return replace(made, **changes)


def needed(levers: Levers, micro_batch: int = 1, **changes: Any) -> Budget:
    return budget(job(**changes), levers, micro_batch)


# weights


def test_nf4_takes_half_a_byte_a_weight_and_its_scales() -> None:
    assert NF4_BYTES == 0.5 + 1 / 64 + 4 / 16384 == 0.515869140625
    assert round((LINEARS + GATES) * NF4_BYTES) == 12_561_700_480  # facts, with a and b quantised too


def test_weights_of_the_27b_are_those_of_its_config() -> None:
    counts = count_weights(shape_of(DENSE))
    assert (counts.linears, counts.embedding, counts.head, counts.experts) == (LINEARS, VOCABULARY, VOCABULARY, 0)
    assert counts.largest == 17_408 * 5120
    norms = 26_895_998_464 - LINEARS - 2 * VOCABULARY
    assert counts.others == norms
    # two norms a layer, conv1d, A_log, dt_bias, norms inside the mixers, the final norm, and the gates
    gated = 10_240 * 4 + 48 + 48 + 128
    assert norms == GATES + 64 * 2 * 5120 + 48 * gated + 16 * 2 * 256 + 5120


def test_static_weights_of_the_27b_are_16_47_gib_and_16_44_with_a_and_b_quantised() -> None:
    counts = count_weights(shape_of(DENSE))
    ours = weight_parts(counts, rows=248_320, nf4=True, e=2, levers=Levers())
    assert round(sum(ours.values()) / GIB, 2) == 16.47
    theirs = replace(counts, linears=LINEARS + GATES, others=counts.others - GATES)
    both = weight_parts(theirs, rows=248_320, nf4=True, e=2, levers=Levers())
    assert both["linear layers in NF4"] == 12_561_700_480  # facts
    assert round(sum(both.values()) / GIB, 2) == 16.44  # facts


def test_each_matrix_of_the_vocabulary_takes_what_its_precision_says() -> None:
    full, int8, nf4 = (head_bytes(VOCABULARY, 248_320, kind, 2) for kind in POSITIONS["head"])
    assert full == 2_542_796_800  # facts: 2.368 GiB
    assert int8 == VOCABULARY + 4 * 248_320
    assert (round(int8 / GIB, 3), round(nf4 / GIB, 3)) == (1.185, 0.611)  # facts


def test_vision_and_multi_token_prediction_are_not_counted() -> None:
    shape = shape_of(DENSE)
    counts = count_weights(shape)
    assert shape.num_parameters > shape.num_text_parameters
    told = (counts.linears, counts.experts, counts.others, counts.embedding, counts.head)
    assert sum(told) == shape.num_text_parameters == 26_895_998_464


def test_experts_are_quantised_too_and_a_tied_head_is_nothing() -> None:
    counts = count_weights(shape_of(MIXTURE))
    assert counts.experts == 40 * 256 * 3 * 512 * 2048 == 32_212_254_720  # facts: 32.212 G
    parts = weight_parts(counts, rows=248_320, nf4=True, e=2, levers=Levers())
    assert parts["routed experts in NF4"] == round(counts.experts * NF4_BYTES)
    assert round(sum(parts.values()) / 2**30, 1) == 18.1  # facts: base only, with bf16 vocabulary
    parts = weight_parts(counts, rows=248_320, nf4=False, e=2, levers=Levers())
    assert parts["routed experts"] == 2 * counts.experts
    tied = count_weights(shape_of("Qwen/Qwen3.5-4B"))
    assert tied.head == 0
    assert "head" not in weight_parts(tied, rows=248_320, nf4=True, e=2, levers=Levers())


# what is trained


@pytest.mark.parametrize(
    ("rank", "parameters", "fp32_gib"),
    # weights, gradients and two states of four bytes each. Facts: 6,799,360 a rank unit; 0.81, 1.62, 3.24, 6.48 GiB
    [(8, 54_394_880, 0.81), (16, 108_789_760, 1.62), (32, 217_579_520, 3.24), (64, 435_159_040, 6.48)],
)
def test_adapters_of_the_27b_and_all_that_they_drag_along(rank: int, parameters: int, fp32_gib: float) -> None:
    trained = adapter_shapes(shape_of(DENSE).linears(tuple(FAMILY_MODULES)), rank)
    assert num_trainable(trained) == parameters == rank * 6_799_360
    stay, move = state_bytes(trained, "adamw")
    assert (stay, move) == (8 * parameters, 0)
    assert round((8 * parameters + stay) / GIB, 2) == fp32_gib


def test_states_in_8_bits_follow_the_rule_for_each_tensor() -> None:
    # 16 x 5,120 = 81,920 numbers: in 8 bits, with a float32 scale for 256; under 100,000, so it never moves
    assert state_bytes([(16, 5120)], "adamw_8bit") == (2 * (81_920 + 4 * 320), 0)
    assert state_bytes([(16, 5120)], "paged_adamw_8bit") == (2 * (81_920 + 4 * 320), 0)
    # 17,408 x 16 = 278,528: its 8-bit states can move, their scales stay
    assert state_bytes([(17_408, 16)], "paged_adamw_8bit") == (2 * 4 * 1088, 2 * 278_528)
    # under 4,096 numbers bitsandbytes keeps float32
    assert state_bytes([(1, 4095)], "paged_adamw_8bit") == state_bytes([(1, 4095)], "adamw") == (2 * 4 * 4095, 0)
    assert state_bytes([(1, 4096)], "adamw_8bit") == (2 * (4096 + 4 * 16), 0)


def test_of_the_states_of_rank_16_three_quarters_can_move() -> None:
    trained = adapter_shapes(shape_of(DENSE).linears(tuple(FAMILY_MODULES)), 16)
    stay, move = state_bytes(trained, "paged_adamw_8bit")
    assert stay + move == state_bytes(trained, "adamw_8bit")[0]
    small = sum(a * b for a, b in trained if a * b < 100_000)
    assert move == 2 * (108_789_760 - small)


# widths


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        # hidden, tied, Gated DeltaNet and attention layers, key, value, heads, query, key_value, feed-forward
        (DENSE, (5120, False, 48, 16, 2048, 6144, 48, 6144, 1024, 17_408)),
        ("Qwen/Qwen3.8-27B", (5120, False, 48, 16, 2048, 6144, 48, 6144, 1024, 17_408)),
        ("Qwen/Qwen3.5-9B", (4096, False, 24, 8, 2048, 4096, 32, 4096, 1024, 12_288)),
        ("Qwen/Qwen3.5-4B", (2560, True, 24, 8, 2048, 4096, 32, 4096, 1024, 9216)),
        ("Qwen/Qwen3.5-2B", (2048, True, 18, 6, 2048, 2048, 16, 2048, 512, 6144)),
        ("Qwen/Qwen3.5-0.8B", (1024, True, 18, 6, 2048, 2048, 16, 2048, 512, 3584)),
        (MIXTURE, (2048, False, 30, 10, 2048, 4096, 32, 4096, 512, 512)),
    ],
)
def test_widths_are_read_off_the_shapes(base: str, expected: tuple[int, ...]) -> None:
    found = read_widths(shape_of(base))
    told = (found.hidden, found.tied, found.num_linear_layers, found.num_attention_layers, found.key, found.value)
    told += (found.value_heads, found.query, found.key_value, found.feed_forward)
    assert told == expected
    assert (found.vocabulary, found.head, found.attention_head) == (248_320, 128, 256)
    moe = (256, 8, 512) if base == MIXTURE else (0, 0, 0)
    assert (found.num_experts, found.experts_per_token, found.expert) == moe


# what comes and goes


def test_the_input_of_a_layer_is_10240_bytes_a_token_and_of_64_layers_655360() -> None:
    told = needed(Levers(), length=8192)
    rotary = 2 * 64 * 2  # cosine and sine of a quarter of 256, in bfloat16
    assert told.parts["inputs to recompute from"] == 8192 * (64 * 10_240 + rotary) == 8192 * (655_360 + rotary)  # facts
    halves = needed(Levers(recompute="halves"), length=8192)
    assert halves.parts["inputs to recompute from"] == 8192 * (2 * 655_360 + rotary)
    host = needed(Levers(checkpoints="host"), length=8192)
    assert host.parts["inputs to recompute from"] == 8192 * (2 * 10_240 + rotary)
    assert host.host_bytes - told.host_bytes == 8192 * 655_360


def test_a_gated_delta_net_layer_takes_what_was_simulated() -> None:
    # facts, section 2.2: 437,192 bytes a token; here 10,240 less, one tensor of the width that is no longer cast
    moments = layer_moments(job().widths, e=2, rank=16, dropout=False, kernels=True, recompute="layer")
    worst = max(moment.token_bytes for moment in moments)
    assert worst == pytest.approx(437_192, rel=0.05)
    slow = layer_moments(job().widths, e=2, rank=16, dropout=False, kernels=False, recompute="layer")
    assert max(moment.token_bytes for moment in slow) == pytest.approx(812_811, rel=0.1)  # facts


def test_a_dequantised_matrix_brings_a_float32_maximum_for_64_weights() -> None:
    moments = layer_moments(job().widths, e=2, rank=16, dropout=False, kernels=True, recompute="layer")
    matrix = next(m for m in moments if m.name == "gated delta net layer, feed-forward: down_proj backward")
    _, held = matrix.bytes(1, e=2, nf4=True)
    assert held == 178_257_920 + 5_570_560  # facts: 178 MB and 5.6 MB
    assert matrix.bytes(1, e=2, nf4=False)[1] == 0


def test_the_loss_never_holds_logits() -> None:
    widths, tokens = job().widths, 16_384
    for head in ("full", "int8", "nf4"):
        told = loss_moments(widths, tokens, e=2, head=head, adapter_copies=0)  # type: ignore[arg-type]
        assert max(told.values()) < 2 * tokens * 248_320 / 3  # a third of bfloat16 logits alone
    # by hand, of 1,024 tokens: states, a chunk of products in bfloat16 and twice in float32, statistics, norm's input
    by_hand = 1024 * (4 * 5120 + 4 + 2 * 2 * 5120) + 1024 * 8192 * (2 + 4 + 4) + 1024 * 48
    assert loss_moments(widths, 1024, e=2, head="full", adapter_copies=7)["loss: forward"] == by_hand + 7
    rows = 8192 * 5120 * 2
    assert loss_moments(widths, 1024, e=2, head="int8", adapter_copies=0)["loss: forward"] == by_hand + rows


# all together


@pytest.mark.parametrize("base", [DENSE, MIXTURE, "Qwen/Qwen3.5-0.8B"])
@pytest.mark.parametrize("levers", [Levers(), Levers("host", "nf4", "host", "halves", "paged_adamw_8bit")])
@pytest.mark.parametrize("changes", [{}, {"rank": 0, "nf4": False}, {"dora": True}, {"dropout": True}], ids=str)
def test_parts_add_up_to_the_peak_and_static_is_among_them(base: str, levers: Levers, changes: dict[str, Any]) -> None:
    told = needed(levers, base=base, **changes)
    assert sum(told.parts.values()) == told.peak_bytes == told.moments[told.peak] == max(told.moments.values())
    come_and_gone = {"inputs to recompute from", "loss", "activations of one layer", "matrices made meanwhile"}
    come_and_gone |= {"gaps between blocks", "optimizer's temporaries", "vocabulary's gradient"}
    assert sum(size for name, size in told.parts.items() if name not in come_and_gone) == told.static_bytes
    assert all(size > 0 for size in told.parts.values())


def test_moments_are_those_of_both_kinds_of_layers_of_the_loss_and_of_the_step() -> None:
    plain = set(needed(Levers()).moments)
    assert {"loss: forward", "loss: backward", "optimizer step"} < plain
    assert {name.split(":")[0] for name in plain} >= {"gated delta net", "attention", "loss"}
    assert "feed-forward: down_proj backward" in needed(Levers(recompute="halves")).moments
    assert "feed-forward: down_proj backward" not in plain


def test_static_parts_of_rank_16_are_counted_by_hand() -> None:
    parts = needed(Levers()).parts
    assert parts["linear layers in NF4"] == round(LINEARS * NF4_BYTES)
    assert parts["embedding"] == parts["head"] == 2_542_796_800
    assert parts["adapters"] == parts["gradients"] == 4 * 108_789_760
    assert parts["optimizer states"] == 8 * 108_789_760
    assert parts["CUDA context"] == CONTEXT_BYTES
    assert "CUDA context" not in needed(Levers(), cuda=False).parts


def test_dora_makes_an_identity_as_wide_as_the_widest_input() -> None:
    moments = layer_moments(job().widths, e=2, rank=16, dropout=False, kernels=True, recompute="halves", dora=True)
    (at_down,) = (moment for moment in moments if moment.name == "feed-forward: DoRA of down_proj")
    # in float32 and in bfloat16; the adapter's first product with it is (17,408, 5,120) in bfloat16
    assert at_down.bytes(0, e=2, nf4=True) == (0, 17_408**2 * (4 + 2) + 2 * 17_408 * 5120)
    plain, dora = needed(Levers(), length=2048), needed(Levers(), length=2048, dora=True)
    assert dora.peak_bytes - plain.peak_bytes > 2 * GIB


def test_a_trained_vocabulary_has_a_gradient_beside_the_one_that_is_kept() -> None:
    """A tied one's first half, of the head, waits through the whole backward for the second, of the embedding."""
    whole = 4 * 248_320 * 2560
    tied = needed(Levers(), base="Qwen/Qwen3.5-4B", rank=0, nf4=False)
    assert (tied.peak, tied.parts["vocabulary's gradient"]) == ("embedding: backward", 2 * whole)
    longer = needed(Levers(), base="Qwen/Qwen3.5-4B", rank=0, nf4=False, length=32_768)
    assert "layer" in longer.peak
    assert longer.parts["vocabulary's gradient"] == whole
    apart = needed(Levers(), base="Qwen/Qwen3.5-9B", rank=0, nf4=False, length=32_768)
    assert "vocabulary's gradient" not in apart.parts
    by_tiles = loss_moments(job().widths, 8, e=2, head="full", adapter_copies=0, trained=True)["loss: backward"]
    assert by_tiles > 4 * VOCABULARY


def test_gaps_are_a_share_of_what_comes_and_goes() -> None:
    parts = needed(Levers()).parts
    moving = parts["inputs to recompute from"] + parts["activations of one layer"]
    moving += parts.get("matrices made meanwhile", 0)
    assert parts["gaps between blocks"] == round(FRAGMENTATION * moving) + WORKSPACE_BYTES


def test_each_lever_saves_what_it_says() -> None:
    plain = needed(Levers())
    embedding = needed(Levers(embeddings="host"))
    assert plain.static_bytes - embedding.static_bytes == 2_542_796_800
    assert embedding.host_bytes - plain.host_bytes == 2_542_796_800
    int8, nf4 = needed(Levers(head="int8")), needed(Levers(head="nf4"))
    assert plain.static_bytes - int8.static_bytes == 2_542_796_800 - VOCABULARY - 4 * 248_320
    assert plain.static_bytes - nf4.static_bytes == 2_542_796_800 - round(VOCABULARY * NF4_BYTES)
    states = job().states
    for name in ("adamw_8bit", "paged_adamw_8bit"):
        other = needed(Levers(optimizer=name))  # type: ignore[arg-type]
        assert plain.static_bytes - other.static_bytes == states["adamw"][0] - states[name][0]  # type: ignore[index]
        assert other.host_bytes - plain.host_bytes == states[name][1]  # type: ignore[index]
    on_host = needed(Levers(checkpoints="host"))
    saved = 62 * 4096 * 10_240  # two of 64 inputs stay
    assert plain.peak_bytes - on_host.peak_bytes == pytest.approx(saved * (1 + FRAGMENTATION), abs=1)
    assert on_host.host_bytes - plain.host_bytes == 64 * 4096 * 10_240
    halves = needed(Levers(recompute="halves", checkpoints="host"))
    assert halves.peak_bytes < on_host.peak_bytes


def test_on_the_host_lie_the_process_and_the_largest_matrix_on_its_way() -> None:
    assert needed(Levers()).host_bytes == PROCESS_BYTES + 2 * 17_408 * 5120
    on_cpu = needed(Levers(), cuda=False)
    assert on_cpu.host_bytes == PROCESS_BYTES + 2 * 17_408 * 5120 + on_cpu.peak_bytes


LEVERS = st.builds(Levers, **{name: st.sampled_from(positions) for name, positions in POSITIONS.items()})


@settings(max_examples=25, deadline=None)
@given(
    levers=LEVERS,
    base=st.sampled_from([DENSE, MIXTURE]),
    length=st.integers(16, 50_000),
    more=st.integers(1, 5000),
    rank=st.sampled_from([4, 16, 64]),
    micro_batch=st.integers(1, 4),
)
def test_more_tokens_more_rank_and_more_examples_never_take_less(
    levers: Levers, base: str, length: int, more: int, rank: int, micro_batch: int
) -> None:
    here = needed(levers, micro_batch, base=base, length=length, rank=rank)
    for larger in (
        needed(levers, micro_batch, base=base, length=length + more, rank=rank),
        needed(levers, micro_batch, base=base, length=length, rank=2 * rank),
        needed(levers, micro_batch + 1, base=base, length=length, rank=rank),
    ):
        assert larger.peak_bytes >= here.peak_bytes
        assert larger.host_bytes >= here.host_bytes
        assert larger.static_bytes >= here.static_bytes
