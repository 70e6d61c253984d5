"""What an interval, a p and a verdict say at the ends: nothing, one item, all alike, all changed."""

from __future__ import annotations

import random

import numpy
import pytest

from finetune.statistics import (
    DRAWS,
    Comparison,
    Interval,
    Pairs,
    drawing,
    drawn_ratios,
    expanded,
    holm,
    mcnemar,
    newcombe,
    paired_binary,
    paired_mean,
    pairs_of,
    sign_flip,
    sure_ratio,
    units_of,
    verdict,
    visible_change,
    visible_share,
    wilson,
)


def ends(interval: Interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high


def test_a_published_table_has_its_published_interval() -> None:
    """21 children before and after: 1 both, 1 and 7 in one only, 12 neither.

    Source: Fagerland, Lydersen and Laake, Statistics in Medicine 33, 2014, p. 2850, table V: -0.507 to -0.026.
    """
    found = newcombe(Pairs(both=1, one=7, other=1, neither=12))
    assert [round(end, 3) for end in ends(found)] == [-0.286, -0.507, -0.026]


def test_shares_at_the_ends_touch_them_and_are_not_sure() -> None:
    assert ends(wilson(0, 1)) == pytest.approx((0.0, 0.0, 0.7935), abs=1e-4)
    assert ends(wilson(1, 1)) == pytest.approx((1.0, 0.2065, 1.0), abs=1e-4)
    assert wilson(100, 100).high == 1.0
    assert wilson(0, 100).low == 0.0
    assert wilson(0, 100).high == pytest.approx(0.0370, abs=1e-4)


def test_nothing_has_no_share_no_mean_and_no_difference() -> None:
    for told in (
        lambda: wilson(0, 0),
        lambda: newcombe(Pairs(0, 0, 0, 0)),
        lambda: paired_binary([], []),
        lambda: paired_mean([], []),
        lambda: sure_ratio([]),
        lambda: sure_ratio([1.0], [0.0]),
        lambda: wilson(3, 2),
        lambda: paired_binary([True], []),
        lambda: units_of([[1.0, 2.0]], [1.0]),
        lambda: units_of([[1.0, 2.0]], None, ["a"]),
    ):
        with pytest.raises(ValueError, match=r"items|no share|weights|shorter"):
            told()
    assert mcnemar(Pairs(0, 0, 0, 0)) == 1.0
    assert holm([]) == []


def test_one_item_is_no_evidence_however_it_changed() -> None:
    binary, mean = paired_binary([False], [True]), paired_mean([0.0], [1.0])
    assert (binary.difference.value, binary.p, binary.sees, binary.units) == (1.0, 1.0, None, 1)
    assert mean == Comparison(Interval(1.0, 1.0, 1.0), 1.0, None, 1)
    assert verdict(binary, "higher") == verdict(mean, "higher") == "no evidence"


def test_models_that_agree_everywhere_differ_by_nothing_with_room_on_both_sides() -> None:
    right = [True] * 30 + [False] * 20
    found = paired_binary(right, right)
    assert found.difference.value == 0.0
    assert -0.05 < found.difference.low < 0 < found.difference.high < 0.05
    assert found.p == 1.0
    assert verdict(found, "higher") == "no evidence"
    always = paired_binary([True] * 50, [True] * 50)
    assert always.difference.high == pytest.approx(1 - wilson(50, 50).low)
    equal = paired_mean([2.0] * 50, [2.0] * 50)
    assert equal == Comparison(Interval(0.0, 0.0, 0.0), 1.0, None, 50)
    assert verdict(equal, "lower") == "no evidence"


def test_items_that_all_changed_one_way_are_evidence_from_six_on() -> None:
    for items, told in ((5, "no evidence"), (6, "better")):
        found = paired_binary([False] * items, [True] * items)
        assert found.p == 2 * 0.5**items
        assert verdict(found, "higher") == told
    lost = paired_binary([True] * 40, [False] * 40)
    assert lost.difference.low == -1.0
    assert (verdict(lost, "higher"), verdict(lost, "lower")) == ("worse", "better")


def test_as_many_gained_as_lost_is_no_evidence() -> None:
    found = paired_binary([True, False] * 50, [False, True] * 50)
    assert (found.difference.value, found.p) == (0.0, 1.0)
    assert verdict(found, "higher") == "no evidence"


def test_a_verdict_knows_which_way_is_better_and_obeys_an_adjusted_p() -> None:
    rose = Comparison(Interval(0.4, 0.1, 0.7), 0.01, 0.2, 100)
    assert (verdict(rose, "higher"), verdict(rose, "lower")) == ("better", "worse")
    assert verdict(rose, "higher", p=0.06) == "no evidence"
    assert verdict(Comparison(Interval(0.4, -0.01, 0.7), 0.01, 0.2, 100), "higher") == "no evidence"
    assert verdict(Comparison(Interval(-0.4, -0.7, -0.1), 0.01, None, 5), "lower") == "no evidence"


def test_pairs_are_counted_by_who_was_right() -> None:
    assert pairs_of([True, True, False, False, False], [True, False, True, False, False]) == Pairs(1, 1, 1, 2)


def test_losses_are_weighed_by_tokens_and_differ_item_by_item() -> None:
    tokens = [float(n % 7 + 1) for n in range(40)]
    base = [n * (2.0 + 0.5 * (-1) ** n) for n in tokens]
    tuned = [nats - 0.25 * n for nats, n in zip(base, tokens, strict=True)]
    found = paired_mean(base, tuned, tokens)
    assert ends(found.difference) == pytest.approx((-0.25, -0.25, -0.25))
    assert found.sees is None
    assert sure_ratio(base, tokens).value == pytest.approx(sum(base) / sum(tokens))


def test_items_of_one_document_go_together_and_count_as_one() -> None:
    chance = random.Random(5)
    shifts = [chance.gauss(0, 1) for _ in range(20)]
    apart = [shift + chance.gauss(0, 0.01) for shift in shifts for _ in range(25)]
    nothing, documents = [0.0] * 500, [n // 25 for n in range(500)]
    alone, together = paired_mean(nothing, apart), paired_mean(nothing, apart, clusters=documents)
    assert (alone.units, together.units) == (500, 20)
    assert together.difference.value == pytest.approx(alone.difference.value)
    wider = (together.difference.high - together.difference.low) / (alone.difference.high - alone.difference.low)
    assert wider == pytest.approx(5.0 * expanded(20) / expanded(500), rel=0.1), "the root of 25"
    right = [shift > 0 for shift in apart]
    assert paired_binary(nothing, right, documents).units == 20  # type: ignore[arg-type]
    assert paired_binary(nothing, right, list(range(500))).units == 500  # type: ignore[arg-type]


def test_all_ways_of_turning_few_signs_are_counted() -> None:
    assert paired_mean([0.0] * 6, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).p == 2 / 64
    assert paired_mean([0.0] * 3, [1.0, 1.0, -1.0]).p == 1.0
    assert sign_flip(units_of([[1.0] * 100])) == 1 / (DRAWS + 1)


def test_few_units_reach_as_far_as_students_t() -> None:
    assert expanded(6) == pytest.approx(2.5706 * (6 / 5) ** 0.5, rel=2e-4)
    assert expanded(21) == pytest.approx(2.0860 * (21 / 20) ** 0.5, rel=1e-4)
    assert expanded(10**6) == pytest.approx(1.95996, rel=1e-5)


def test_draws_are_the_same_however_many_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = numpy.random.default_rng(6)
    units = units_of([chance.random(37), chance.random(37)], chance.random(37))
    whole = drawn_ratios(units, 500)
    monkeypatch.setattr(drawing, "MOST_AT_ONCE", 100)
    assert numpy.array_equal(whole, drawn_ratios(units, 500))


def test_what_a_set_can_see_is_what_it_was_planned_for() -> None:
    """Connor's formula forward: as many items as show a difference see just that one."""
    for changed, difference in ((0.2, 0.1), (0.2, 0.05), (0.05, 0.02)):
        items = (1.959964 * changed**0.5 + 0.841621 * (changed - difference**2) ** 0.5) ** 2 / difference**2
        assert visible_share(round(items), round(changed * items)) == pytest.approx(difference, rel=0.02)
    assert visible_share(5, 5) is None
    assert visible_share(6, 0) == pytest.approx(0.86, abs=0.05)
    assert visible_share(1000, 0) == pytest.approx(7.85 / 1000, rel=0.01), "nothing changed yet: eight that would"
    assert visible_change(0.1, 50) == pytest.approx(0.28, abs=0.001)
    assert visible_change(0.1, 5) is visible_change(0.0, 50) is None


def test_holms_steps_never_fall_and_pass_over_what_has_no_p() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
