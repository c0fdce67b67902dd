"""The search of learning rates."""

import math

from hypothesis import given
from hypothesis import strategies as st

from subquadratic.comparison.search import best_rate, next_rate


@given(optimum=st.floats(-14, 0), tries=st.integers(1, 8), usual=st.sampled_from([1e-3, 2e-3, 4e-3]))
def test_it_goes_towards_the_optimum_and_tries_nothing_twice(optimum: float, tries: int, usual: float) -> None:
    scores: dict[float, float | None] = {}
    for _ in range(tries):
        rate = next_rate(usual, scores)
        assert not any(math.isclose(rate, tried, rel_tol=1e-3) for tried in scores)
        scores[rate] = (math.log2(rate) - optimum) ** 2
    best = best_rate(scores)
    assert best is not None
    reachable = max(0.0, abs(math.log2(usual) - optimum) - max(0, tries - 2))
    assert abs(math.log2(best) - optimum) <= reachable + 1


def test_what_diverged_is_left_below() -> None:
    assert next_rate(1e-3, {1e-3: None}) == 5e-4
    assert next_rate(1e-3, {1e-3: None, 5e-4: None}) == 2.5e-4
    assert next_rate(1e-3, {1e-3: 2.0, 2e-3: None}) == 5e-4
    assert best_rate({1e-3: None, 2e-3: None}) is None


def test_between_two_worse_ones_it_looks_nearer() -> None:
    assert math.isclose(next_rate(1e-3, {1e-3: 1.0, 2e-3: 2.0, 5e-4: 1.5}), 1e-3 / math.sqrt(2))
