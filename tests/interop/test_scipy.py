"""The statistics are those of scipy and statsmodels, on two hundred random sets of nearly each kind."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy
import pytest

from finetune.statistics import (
    SEED,
    Pairs,
    bca,
    drawn_ratios,
    holm,
    mcnemar,
    newcombe,
    percentile,
    sign_flip,
    units_of,
    visible_share,
    wilson,
)

stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
proportion = pytest.importorskip("statsmodels.stats.proportion", reason="statsmodels is not installed")

CASES = 200


def tables() -> Iterator[Pairs]:
    """Tables of 1 to 400 items, from nearly nothing changed to all of it; empty cells are common in small ones."""
    chance = random.Random(0)
    for _ in range(CASES):
        weights = [chance.random() ** 3 for _ in range(4)]
        cells = chance.choices(range(4), weights, k=int(400 ** chance.random()))
        yield Pairs(*(cells.count(cell) for cell in range(4)))


def test_shares_have_the_score_interval() -> None:
    for pairs in tables():
        right, found = pairs.both + pairs.one, wilson(pairs.both + pairs.one, pairs.items)
        told = proportion.proportion_confint(right, pairs.items, method="wilson")
        other = stats.binomtest(right, pairs.items).proportion_ci(method="wilson")
        assert (found.low, found.high) == pytest.approx(told, abs=1e-12)
        assert (found.low, found.high) == pytest.approx((other.low, other.high), abs=1e-12)


def test_differences_of_paired_shares_have_newcombes_interval() -> None:
    for pairs in tables():
        found = newcombe(pairs)
        assert (found.low, found.high) == pytest.approx(derived(pairs), abs=1e-12)


def derived(pairs: Pairs) -> tuple[float, float]:
    """Newcombe's interval another way: from the answers themselves, by their covariance less 1 in 2 n."""
    answers = [[1.0, 1.0]] * pairs.both + [[1.0, 0.0]] * pairs.one + [[0.0, 1.0]] * pairs.other
    before, after = numpy.array(answers + [[0.0, 0.0]] * pairs.neither).T
    together = numpy.cov(before, after, bias=True)
    less = min(together[0, 1], max(together[0, 1] - 1 / (2 * len(before)), 0.0))
    spread = numpy.sqrt(together[0, 0] * together[1, 1])
    phi = less / spread if spread > 1e-12 else 0.0
    ends = []
    for side in ("low", "high"):
        errors = []
        for answered, end in ((after, side), (before, "high" if side == "low" else "low")):
            share = stats.binomtest(int(answered.sum()), len(answered)).proportion_ci(method="wilson")
            errors.append(getattr(share, end) - answered.mean())
        square = errors[0] ** 2 + errors[1] ** 2 + 2 * phi * errors[0] * errors[1]  # of opposite signs
        ends.append(float((after - before).mean() + (-1 if side == "low" else 1) * numpy.sqrt(max(square, 0.0))))
    return ends[0], ends[1]


def test_mcnemars_p_is_the_exact_one() -> None:
    for pairs in tables():
        changed = pairs.one + pairs.other
        told = stats.binomtest(pairs.one, changed).pvalue if changed else 1.0
        assert mcnemar(pairs) == pytest.approx(told, rel=1e-9)


def test_drawn_intervals_are_scipys_of_the_same_draws() -> None:
    chance = numpy.random.default_rng(1)
    for case in range(CASES):
        count = int(chance.integers(6, 60))
        apart, tokens = chance.standard_exponential(count) - 0.7, chance.integers(1, 90, count).astype(float)
        units = units_of([apart * tokens], tokens)
        drawn = drawn_ratios(units, 300)[0]
        level = 1 - 2 * stats.norm.sf(stats.t.isf(0.025, count - 1) * (count / (count - 1)) ** 0.5)
        for method, found, sure in (("percentile", percentile(0.0, drawn), 0.95), ("BCa", bca(units, drawn), level)):
            told = stats.bootstrap(
                (apart * tokens, tokens),
                lambda nats, weights, axis: nats.sum(axis=axis) / weights.sum(axis=axis),
                paired=True,
                n_resamples=300,
                method=method,
                confidence_level=sure,
                rng=numpy.random.default_rng(SEED),
            ).confidence_interval
            # of Student's t the quantile is a series, which is off by 1e-4 for 6 units
            within = 1e-9 if method == "percentile" else 2e-2 if count < 12 else 1e-3
            assert (found.low, found.high) == pytest.approx((told.low, told.high), abs=within), (case, method)


def test_signs_are_turned_as_scipy_turns_them() -> None:
    chance = numpy.random.default_rng(7)
    for case in range(CASES):
        apart = chance.standard_normal(int(chance.integers(2, 13 if case % 10 else 40))) + 0.5
        told = stats.permutation_test(
            (apart,), numpy.sum, permutation_type="samples", n_resamples=4096, rng=numpy.random.default_rng(case)
        ).pvalue
        found = sign_flip(units_of([apart]))
        assert found == pytest.approx(told, abs=1e-9 if len(apart) <= 12 else 0.04)  # both are drawn


def test_documents_drawn_as_a_whole_are_scipys_draws_of_their_sums() -> None:
    chance = numpy.random.default_rng(2)
    for _ in range(CASES):
        of = chance.integers(0, 9, 40)
        apart = chance.standard_normal(40) + of / 9
        units = units_of([apart], clusters=of.tolist())
        found = percentile(0.0, drawn_ratios(units, 200)[0])
        first = list(dict.fromkeys(of.tolist()))
        sums = [apart[of == document].sum() for document in first]
        told = stats.bootstrap(
            (sums, [float((of == document).sum()) for document in first]),
            lambda one, items, axis: one.sum(axis=axis) / items.sum(axis=axis),
            paired=True,
            n_resamples=200,
            method="percentile",
            rng=numpy.random.default_rng(SEED),
        ).confidence_interval
        assert (found.low, found.high) == pytest.approx((told.low, told.high), abs=1e-9)


def test_many_tasks_are_adjusted_as_statsmodels_does() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest", reason="statsmodels is not installed")
    chance = random.Random(3)
    for _ in range(20):  # each takes statsmodels a twentieth of a second
        ps = [chance.random() ** 4 for _ in range(chance.randint(1, 12))]
        assert holm(ps) == pytest.approx(multitest.multipletests(ps, method="holm")[1].tolist(), abs=1e-12)


def test_a_change_that_is_called_visible_is_found_four_times_in_five() -> None:
    chance = numpy.random.default_rng(4)
    for items, changed in ((100, 20), (400, 60), (60, 3)):
        sees = visible_share(items, changed)
        assert sees is not None
        spread = max(changed / items, sees)
        shares = [(spread - sees) / 2, (spread + sees) / 2, 1 - spread]
        found = 0
        for one, other, rest in chance.multinomial(items, shares, size=1000):
            found += mcnemar(Pairs(int(rest), int(one), int(other), 0)) < 0.05
        # the exact test is more careful than the formula, the more so the fewer items change
        assert 0.68 < found / 1000 < 0.84, (items, changed)
