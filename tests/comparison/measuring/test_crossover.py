"""Crossings of curves that are known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subquadratic.comparison.measuring.crossover import QUANTITIES, crossing, crossover, readings, slope
from subquadratic.comparison.results import Speed

LENGTHS = [512 << power for power in range(7)]
POSITIVE = st.floats(1e-3, 1e3)


def speeds(lengths: list[int], seconds: dict[str, list[list[float]]]) -> list[Speed]:
    return [
        Speed(entry=name, length=length, train_seconds=times, train_bytes=round(1e9 * times[0]) or None)
        for name, rows in seconds.items()
        for length, times in zip(lengths, rows, strict=True)
    ]


@given(start=POSITIVE, linear=POSITIVE, square=POSITIVE, constant=st.floats(0, 1e3), fine=st.sampled_from([1, 8]))
def test_the_analytic_crossing(start: float, linear: float, square: float, constant: float, fine: int) -> None:
    """a + b n against c n + d n^2, with coefficients that are worth something at 4,096 tokens: within a few per cent between lengths that
    double, and closer between closer ones."""
    a, b, c, d = constant, start / 4096, linear / 4096, square / 4096**2
    lengths = [round(512 * 2 ** (step / fine)) for step in range(7 * fine)]
    analytic = (b - c + math.sqrt((b - c) ** 2 + 4 * d * a)) / (2 * d)
    found = crossover(
        speeds(lengths, {"ours": [[a + b * n] for n in lengths], "transformer": [[c * n + d * n * n] for n in lengths]}), "ours"
    )
    if analytic < lengths[0] * 0.999:
        assert found.outcome == "always" and found.length is None
    elif analytic > lengths[-1] * 1.001:
        assert found.outcome == "never" and found.gain is not None and found.gain < 1
    elif lengths[0] * 1.001 < analytic < lengths[-1] * 0.999:
        assert found.outcome == "at" and found.length == pytest.approx(analytic, rel=0.12 if fine == 1 else 0.01)
    assert (found.first, found.last, found.rounds, found.low, found.high) == (lengths[0], lengths[-1], 1, None, None)


@given(power=st.floats(0.2, 1.5), factor=st.floats(-3, 3))
def test_powers_cross_exactly_where_they_do(power: float, factor: float) -> None:
    """(n / n*) to a power: straight lines in log-log, so nothing is lost by interpolating."""
    place = 4096 * math.exp(factor)
    own = [[(n / place) ** power * n] for n in LENGTHS]
    exact = [[(n / place) ** 2 * n] for n in LENGTHS]
    found = crossover(speeds(LENGTHS, {"a": own, "b": exact}), "a", exact="b")
    if LENGTHS[0] < place < LENGTHS[-1]:
        assert found.length == pytest.approx(place, rel=1e-6)
    else:
        assert found.outcome == ("always" if place <= LENGTHS[0] else "never")


@settings(deadline=None, max_examples=25)
@given(place=st.floats(LENGTHS[0] * 1.01, LENGTHS[-1] * 0.99), noise=st.lists(st.floats(-0.3, 0.3), min_size=7, max_size=7), speed=POSITIVE)
def test_only_ratios_within_a_round_count(place: float, noise: list[float], speed: float) -> None:
    """A machine that is slower in some rounds, or altogether, changes nothing, and adds nothing to the interval."""
    slow = [speed * math.exp(value) for value in noise]
    own, exact = [[n * s for s in slow] for n in LENGTHS], [[n * (n / place) ** 0.5 * s for s in slow] for n in LENGTHS]
    found = crossover(speeds(LENGTHS, {"ours": own, "transformer": exact}), "ours")
    assert [found.length, found.low, found.high] == pytest.approx([place] * 3, rel=1e-6) and found.rounds == 7


def test_the_interval_holds_the_crossing_and_is_open_where_it_may_lie_outside() -> None:
    generator = np.random.default_rng(0)
    covered, ends = 0, []
    for _ in range(40):
        own = [[n * float(np.exp(generator.normal(0, 0.1))) for _ in range(7)] for n in LENGTHS]
        found = crossover(speeds(LENGTHS, {"ours": own, "transformer": [[n**1.5 / 64] * 7 for n in LENGTHS]}), "ours")
        assert found.low is not None and found.high is not None
        covered += found.low <= 4096 <= found.high
        ends.append(found.high / found.low)
    assert covered >= 34 and 1.1 < np.median(ends) < 2
    near_the_end = [[n * float(np.exp(generator.normal(0, 0.3))) for _ in range(5)] for n in LENGTHS]
    found = crossover(speeds(LENGTHS, {"ours": near_the_end, "transformer": [[n**1.5 / 181] * 5 for n in LENGTHS]}), "ours")
    assert found.low is not None and found.high is None


def test_falling_below_once_is_not_staying_there() -> None:
    assert crossing([1, 2, 4, 8], [1.0, -1.0, 1.0, -1.0]) == pytest.approx(4 * math.sqrt(2))
    assert crossing([1, 2, 4], [-1.0, -1.0, 0.5]) == math.inf
    assert crossing([1, 2, 4], [-1.0, -2.0, -3.0]) == -math.inf
    assert crossing([8], [0.0]) == math.inf


def test_lengths_that_only_one_of_them_has_do_not_count() -> None:
    found = [Speed(entry="transformer", length=n, train_seconds=[2.0, 2.0]) for n in (1, 2, 4)]
    found += [Speed(entry="ours", length=n, train_seconds=[1.0]) for n in (2, 4, 8)]
    found += [Speed(entry="transformer", length=8, note="does not fit"), Speed(entry="other", length=8, train_seconds=[1.0])]
    both = crossover(found, "ours")
    assert (both.outcome, both.first, both.last, both.rounds, both.gain) == ("always", 2, 4, 1, 2.0)
    assert crossover(found, "other").outcome == "unknown" == crossover(found, "ours", quantity="train_bytes").outcome
    assert readings(found, "transformer", "train_seconds").keys() == {1, 2, 4}
    assert all(crossover(found, "nobody", quantity=quantity).outcome == "unknown" for quantity in QUANTITIES)


@settings(deadline=None, max_examples=10)
@given(power=st.floats(0.5, 2.5), factor=POSITIVE)
def test_slopes_are_powers(power: float, factor: float) -> None:
    rows = speeds(LENGTHS, {"ours": [[factor * n**power] * 3 for n in LENGTHS]})
    found = slope(rows, "ours")
    assert found is not None and [found.value, found.low, found.high] == pytest.approx([power] * 3)
    assert (found.first, found.last) == (LENGTHS[-3], LENGTHS[-1])
    memory = slope(rows, "ours", "train_bytes", fit=2)
    assert memory is not None and memory.value == pytest.approx(power, abs=1e-3) and memory.low is None
    assert slope(rows[:1], "ours") is None
