"""Estimates and differences against scipy's own, and by simulation: do intervals hold, and how often is a verdict false?"""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from subquadratic.comparison.statistics import Difference, Sampling, between, differences, estimate, unpaired

NUMBERS = st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=2, max_size=8)


@given(NUMBERS)
def test_an_estimate_is_the_t_interval_of_scipy(values: list[float]) -> None:
    found = estimate(values)
    assert found is not None and found.spread is not None
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert found.spread == pytest.approx(np.std(values, ddof=1), abs=1e-9)
    assert (found.low is None) == (len(set(values)) == 1)
    if found.spread > 1e-6:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-7)


def test_what_is_no_number_is_left_out_and_one_number_has_no_interval() -> None:
    assert estimate([]) is None
    assert estimate([None, math.nan, math.inf]) is None
    found = estimate([2.0, None, math.nan])
    assert found is not None and (found.count, found.mean, found.spread, found.low, found.half) == (1, 2.0, None, None, None)


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=8))
def test_of_two_entries_it_is_the_paired_t_test_of_scipy(pairs: list[tuple[float, float]]) -> None:
    first, second = ([round(number, 3) for number in side] for side in zip(*pairs, strict=True))
    (found,) = differences({"a": dict(enumerate(first)), "b": dict(enumerate(second))})
    if np.std(np.subtract(first, second), ddof=1) < 1e-6:
        assert found.low is None and not found.counts
        return
    test = stats.ttest_rel(first, second)
    assert found.p == pytest.approx(test.pvalue, rel=1e-6, abs=1e-12)
    interval = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-8)
    if abs(test.pvalue - 0.05) > 1e-9:
        assert found.counts == (test.pvalue < 0.05)


def holm(p: list[float]) -> list[bool]:
    """Holm's step-down procedure as its definition has it, at 5 %."""
    rejected = [False] * len(p)
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if p[index] >= 0.05 / (len(p) - rank):
            break
        rejected[index] = True
    return rejected


@given(st.integers(0, 10_000), st.integers(3, 6), st.integers(2, 5), st.sampled_from([0.0, 1.0, 4.0, 20.0]))
@settings(max_examples=60)
def test_verdicts_are_those_of_holm_and_follow_from_the_intervals(seed: int, entries: int, seeds: int, apart: float) -> None:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(entries, seeds)) + apart * np.arange(entries)[:, None]
    found = differences({f"m{index}": dict(enumerate(row)) for index, row in enumerate(x)})
    tests = [stats.ttest_rel(x[i], x[j]) for i, j in itertools.combinations(range(entries), 2)]
    assert [pair.counts for pair in found] == holm([test.pvalue for test in tests])
    for pair, test in zip(found, tests, strict=True):
        interval = test.confidence_interval(pair.level)
        assert (pair.low, pair.high) == pytest.approx((interval.low, interval.high), rel=1e-6)
        assert 0.95 <= pair.level <= 1 - 0.05 / len(tests) + 1e-12


def test_only_common_seeds_are_compared() -> None:
    scores = {"a": {0: 1.0, 1: 2.0, 2: 9.0}, "b": {1: 1.0, 2: 7.0, 3: 0.0}, "c": {0: 5.0}, "d": {7: 1.0}, "e": {0: math.nan, 1: 1.0}}
    found = differences(scores)
    ab = between(found, "a", "b")
    assert ab is not None and (ab.count, ab.mean) == (2, 1.5)
    ba = between(found, "b", "a")
    assert ba is not None and (ba.mean, ba.low, ba.high) == (-1.5, -ab.high, -ab.low)  # type: ignore[operator]
    ac = between(found, "a", "c")
    assert ac is not None and (ac.count, ac.mean, ac.low, ac.counts) == (1, -4.0, None, False)
    assert between(found, "a", "d") is None
    ae = between(found, "a", "e")
    assert ae is not None and (ae.count, ae.mean) == (1, 1.0)


def test_differences_without_spread_give_no_verdict() -> None:
    """As accuracies on a few rows do."""
    (found,) = differences({"a": {0: 0.35, 1: 0.4, 2: 0.45}, "b": {0: 0.25, 1: 0.3, 2: 0.35}})
    assert found.mean == pytest.approx(0.1) and found.low is None and not found.counts and found.constant


@given(st.integers(0, 999), st.integers(2, 6), st.floats(0, 1))
def test_rows_widen_an_interval_and_never_narrow_it(seed: int, seeds: int, variance: float) -> None:
    draw = np.random.default_rng(seed)
    scores = {name: dict(enumerate(draw.normal(size=seeds))) for name in "ab"}
    (plain,) = differences(scores)
    (whole,) = differences(scores, {name: Sampling(variance=variance, rows=50) for name in "ab"})
    error = stats.sem([scores["a"][n] - scores["b"][n] for n in range(seeds)])
    parts = [(error**2, seeds - 1), (variance, 49), (variance, 49)]
    freedom = sum(part for part, _ in parts) ** 2 / sum(part**2 / own for part, own in parts)
    low, high = stats.t.interval(0.95, freedom, loc=plain.mean, scale=math.sqrt(error**2 + 2 * variance))
    assert (whole.low, whole.high) == pytest.approx((low, high), rel=1e-6)
    if variance == 0:
        assert (whole.low, whole.high) == pytest.approx((plain.low, plain.high))
    (fixed,) = differences({name: dict.fromkeys(range(seeds), 1.0) for name in "ab"}, {"a": Sampling(variance=variance, rows=9)})
    assert fixed.constant and fixed.low is None  # rows do not stand for seeds


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_equal_classifiers_scored_on_few_rows_are_seldom_told_apart(seeds: int) -> None:
    """Two that are right on 60 % of all rows, and each on its own share of the 60 that were scored, whatever its seed."""
    draw, made, rows = np.random.default_rng(0), [], 60
    for _ in range(1500):
        easy = draw.random((2, rows)) < 0.6  # rows that the trained models are right on, most of the time
        right = np.where(draw.random((2, seeds, rows)) < 0.9, easy[:, None], draw.random((2, seeds, rows)) < 0.6).mean(-1)
        values = {name: dict(enumerate(row)) for name, row in zip("ab", right, strict=True)}
        own = {name: Sampling(variance=(share := right.mean()) * (1 - share) / rows, rows=rows) for name in "ab"}
        made.append((differences(values)[0].counts, differences(values, own)[0].counts))
    blind, aware = np.mean(made, axis=0)
    assert aware <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(made))
    assert blind > 0.1 or seeds == 2  # what an interval over seeds alone would say


def simulate(spreads: list[float], *, repeats: int = 1500, seeds: int = 3) -> list[list[Difference]]:
    """Comparisons of equal entries: every verdict in them is false."""
    draw = np.random.default_rng(0)
    made = []
    for _ in range(repeats):
        x = draw.normal(size=(len(spreads), seeds)) * np.array(spreads)[:, None] + draw.normal(size=seeds)
        made.append(differences({f"m{index}": dict(enumerate(row)) for index, row in enumerate(x)}))
    return made


@pytest.mark.parametrize("spreads", [[1.0] * 2, [1.0] * 7, [0.1] * 4 + [1.0] * 3], ids=["two", "seven", "unequal"])
def test_a_verdict_among_equal_entries_is_rare(spreads: list[float]) -> None:
    made = simulate(spreads)
    false = sum(any(pair.counts for pair in found) for found in made) / len(made)
    assert false <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(made))
    covered = [pair.low <= 0 <= pair.high for found in made for pair in found if pair.low is not None and pair.high is not None]
    assert sum(covered) / len(covered) >= 0.95 - 0.01


def test_of_two_entries_the_interval_holds_in_95_percent() -> None:
    made = simulate([1.0, 1.0], repeats=4000)
    covered = sum(found[0].low <= 0 <= found[0].high for found in made) / len(made)  # type: ignore[operator]
    assert abs(covered - 0.95) < 3 * math.sqrt(0.05 * 0.95 / len(made))


def test_differences_that_are_there_are_found() -> None:
    """Five hundredths of a bit with a spread of six thousandths over three seeds, among five entries."""
    draw = np.random.default_rng(0)
    counted = 0
    for _ in range(300):
        x = np.array([1.90, 1.95, 2.0, 2.1, 2.3])[:, None] + 0.006 * draw.normal(size=(5, 3))
        pair = between(differences({f"m{index}": dict(enumerate(row)) for index, row in enumerate(x)}), "m0", "m1")
        assert pair is not None
        counted += pair.counts
    assert counted >= 240


@pytest.mark.filterwarnings("ignore:Precision loss")  # of scipy, on numbers that are nearly equal
@given(NUMBERS, NUMBERS)
def test_unpaired_is_the_test_of_welch(first: list[float], second: list[float]) -> None:
    found = unpaired(first, second)
    assert found is not None and found.mean == pytest.approx(np.mean(first) - np.mean(second), abs=1e-9)
    if np.std(first) + np.std(second) > 1e-3:
        interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-5, abs=1e-7)
        assert found.low is not None and unpaired(first, second, tests=5).low < found.low  # type: ignore[operator, union-attr]
    assert unpaired(first, [1.0]).low is None and unpaired(first, []) is None  # type: ignore[union-attr]
