"""The words of --gpu."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.cards import CARDS, GIB, MIB, OTHER_WORDS, SPELLINGS, card_named, parse_gpus
from finetune.errors import RecipeError


@pytest.mark.parametrize(
    ("words", "name", "count"),
    [
        ("rtx4090", "rtx4090", 1),
        ("RTX 4090", "rtx4090", 1),
        ("4090", "rtx4090", 1),
        ("NVIDIA GeForce RTX 4090", "rtx4090", 1),
        ("rtx4090x2", "rtx4090", 2),
        ("4090x2", "rtx4090", 2),
        ("2xrtx4090", "rtx4090", 2),
        ("2 × RTX 4090", "rtx4090", 2),
        ("rtx 3060 12GB", "rtx3060", 1),
        ("rtx-4070-ti-super", "rtx4070tisuper", 1),
        ("a10", "a10", 1),
        ("a10 24GB", "a10", 1),
        ("a10g", "a10g", 1),
        ("a100", "a100-80", 1),
        ("a100-40", "a100-40", 1),
        ("a100 40GB", "a100-40", 1),
        ("8xa100-80", "a100-80", 8),
        ("A100-SXM4-40GB", "a100-40", 1),
        ("h100x8", "h100", 8),
        ("8xh100", "h100", 8),
        ("h100-80", "h100", 1),
        ("H100 PCIe", "h100-pcie", 1),
        ("h200", "h200", 1),
        ("b200x1024", "b200", 1024),
        ("T4", "t4", 1),
        ("L40S", "l40s", 1),
        ("A6000", "rtxa6000", 1),
        ("RTX 6000 Ada Generation", "rtx6000ada", 1),
        ("RTX PRO 6000 Blackwell Server Edition", "rtxpro6000", 1),
    ],
)
def test_a_card_is_known_by_any_of_its_names(words: str, name: str, count: int) -> None:
    assert parse_gpus(words) == (CARDS[name], count)


@pytest.mark.parametrize(
    ("words", "memory_bytes", "count", "speed_of"),
    [
        ("24GB", 24 * GIB, 1, "rtx3090"),
        ("24gb", 24 * GIB, 1, "rtx3090"),
        ("24GiB", 24 * GIB, 1, "rtx3090"),
        ("24g", 24 * GIB, 1, "rtx3090"),
        ("22.5GB", int(22.5 * GIB), 1, "rtx3090"),
        ("24GBx4", 24 * GIB, 4, "rtx3090"),
        ("4x24GB", 24 * GIB, 4, "rtx3090"),
        ("23028MiB", 23028 * MIB, 1, "rtx3090"),
        ("8GB", 8 * GIB, 1, "rtx3060"),
        ("12GB", 12 * GIB, 1, "rtx3060"),
        ("16GB", 16 * GIB, 1, "rtx4060ti"),
        ("32GB", 32 * GIB, 1, "rtx5090"),
        ("40GB", 40 * GIB, 1, "a100-40"),
        ("48GB", 48 * GIB, 1, "rtxa6000"),
        ("80GB", 80 * GIB, 1, "a100-80"),
        ("96GB", 96 * GIB, 1, "rtxpro6000"),
        ("141GB", 141 * GIB, 1, "h200"),
        ("1024GB", 1024 * GIB, 1, "b200"),
    ],
)
def test_a_bare_size_has_the_speed_of_its_class(words: str, memory_bytes: int, count: int, speed_of: str) -> None:
    card, found = parse_gpus(words)
    assert (card.memory_bytes, found, card.speed_of) == (memory_bytes, count, speed_of)
    assert (card.bf16_flops, card.watts) == (CARDS[speed_of].bf16_flops, CARDS[speed_of].watts)


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        ("rtx409", "--gpu rtx4090"),
        ("4091", "--gpu rtx4090"),
        ("H10", "--gpu h100"),
        ("rtx3090ti", "--gpu rtx3090"),
        ("rtx4089x2", "--gpu rtx4090"),
        ("24", "--gpu 24GB"),
        ("0GB", "--gpu 24GB"),
        ("2000GB", "--gpu 24GB"),
        ("999999GB", "--gpu 24GB"),
        ("24,5GB", "--gpu 24GB"),
        ("-24GB", "--gpu 24GB"),
        ("h100x0", "--gpu 24GB"),
        ("h100x1025", "--gpu 24GB"),
        ("h100x999999999", "--gpu 24GB"),
        ("", "--gpu 24GB"),
        ("mi300x", "--gpu 24GB"),
        ("24TB", "--gpu 24GB"),
        ("two\nlines", "--gpu 24GB"),
        ("\udcff", "--gpu 24GB"),
    ],
)
def test_what_is_no_gpu_is_refused_with_a_fix_that_is_one(words: str, fix: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_gpus(words)
    (problem,) = caught.value.problems
    assert problem.fix == fix
    assert problem.where.startswith("--gpu")
    assert "\n" not in problem.where + problem.why
    parse_gpus(problem.fix.removeprefix("--gpu "))


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(max_size=300),
        st.text("0123456789xX.gGbBiImM ×rthal²", max_size=12),
        st.builds("{}x{}".format, st.sampled_from(sorted(SPELLINGS)), st.integers(-1, 10**10)),
    )
)
def test_any_words_are_a_card_or_told_in_our_words(words: str) -> None:
    try:
        card, count = parse_gpus(words)
    except RecipeError as error:
        parse_gpus(error.problems[0].fix.removeprefix("--gpu "))
    else:
        assert 1 <= count <= 1024
        assert GIB <= card.memory_bytes <= 1024 * GIB


def test_a_name_of_the_catalogue_is_a_word_for_it() -> None:
    assert {name: parse_gpus(name)[0] for name in CARDS} == CARDS
    assert set(OTHER_WORDS.values()) <= set(CARDS)


def test_every_card_is_physically_plausible() -> None:
    for card in CARDS.values():
        assert 10 * GIB < card.memory_bytes < 200 * GIB
        # Products for each byte that memory moves: between T4's float32 and Blackwell's tensor cores.
        assert 20 < card.bf16_flops / card.memory_bandwidth < 450, card.name
        assert 10e9 < card.host_bandwidth < 64e9  # PCIe 3 x16 to 5 x16
        assert card.host_bandwidth < card.memory_bandwidth / 10
        # FLOP a joule: no generation before Hopper does more than 1.7e12, nor less than 1e11.
        assert 1e11 < card.bf16_flops / card.watts < 2.4e12, card.name
        assert (7, 5) <= card.compute_capability <= (12, 0)
        assert card.speed_of == ""


def test_facts_of_the_roofline_are_those_of_the_catalogue() -> None:
    tera = {"rtx3090": 71, "rtx4090": 165, "a10": 125, "l4": 121, "h100": 990, "h200": 790}
    assert {name: CARDS[name].bf16_flops / 1e12 for name in tera} == tera


@pytest.mark.parametrize(
    ("driver_name", "mib", "name", "speed_of"),
    [
        ("NVIDIA A100 80GB PCIe", 81920, "a100-80", ""),
        ("NVIDIA A100-SXM4-80GB", 81920, "a100-80", ""),
        ("NVIDIA A100-PCIE-40GB", 40960, "a100-40", ""),
        ("NVIDIA H100 80GB HBM3", 81559, "h100", ""),
        ("Tesla T4", 15360, "t4", ""),
        ("NVIDIA RTX 6000 Ada Generation", 49140, "rtx6000ada", ""),
        ("NVIDIA GeForce RTX 4060 Ti", 8188, "rtx4060ti", ""),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16376, "NVIDIA GeForce RTX 4090 Laptop GPU", "rtx4060ti"),
        ("NVIDIA Next", 10**6, "NVIDIA Next", "b200"),
    ],
)
def test_the_drivers_name_finds_the_card_and_its_own_memory_stands(
    driver_name: str, mib: int, name: str, speed_of: str
) -> None:
    found = card_named(driver_name, mib * MIB)
    assert (found.name, found.memory_bytes, found.speed_of) == (name, mib * MIB, speed_of)
