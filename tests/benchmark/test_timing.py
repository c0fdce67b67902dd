"""Sides run in turns, by a clock that the tests move."""

from collections.abc import Callable

import pytest

from subquadratic.benchmark.timing import interleave, median, ratios


class Bench:
    """Calls that take a set time on a clock of their own, and are written down."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def call(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.order.append(name)
            self.now += seconds

        return run

    def clock(self) -> float:
        return self.now


def test_rounds_alternate_and_begin_with_another_side_each() -> None:
    bench = Bench()
    found = interleave({"a": bench.call("a", 1.0), "b": bench.call("b", 2.0)}, rounds=4, budget=1e9, clock=bench.clock)
    assert "".join(bench.order) == "ab" + "ab" + "ba" + "ab" + "ba"
    assert found.seconds == {"a": [1.0] * 4, "b": [2.0] * 4}
    assert ratios(found.seconds["a"], found.seconds["b"]) == [2.0] * 4


def test_short_calls_are_repeated_within_a_reading() -> None:
    bench = Bench()
    found = interleave({"a": bench.call("a", 0.01), "b": bench.call("b", 1.0)}, rounds=2, clock=bench.clock)
    assert bench.order.count("a") == 1 + 2 * 5 and bench.order.count("b") == 1 + 2
    assert found.seconds["a"] == pytest.approx([0.01, 0.01])


def test_the_budget_ends_it_but_not_before_the_least() -> None:
    bench = Bench()
    assert len(interleave({"a": bench.call("a", 4.0)}, rounds=50, budget=10.0, clock=bench.clock).seconds["a"]) == 3
    assert len(interleave({"a": bench.call("a", 0.5)}, rounds=50, budget=10.0, clock=bench.clock).seconds["a"]) == 19


def test_a_long_first_call_is_a_round() -> None:
    bench = Bench()
    found = interleave({"a": bench.call("a", 40.0), "b": bench.call("b", 20.0)}, rounds=2, least=2, budget=0.0, clock=bench.clock)
    assert "".join(bench.order) == "ab" + "b" + "ba"
    assert found.seconds == {"a": [40.0, 40.0], "b": [20.0, 20.0]}


def test_what_is_too_slow_or_fails_is_left_out() -> None:
    bench = Bench()

    def fails() -> None:
        raise RuntimeError("no\nroom")

    calls = {"a": bench.call("a", 1.0), "slow": bench.call("slow", 61.0), "broken": fails}
    found = interleave(calls, rounds=2, least=1, clock=bench.clock)
    assert set(found.seconds) == {"a"} and bench.order.count("slow") == 1
    own = interleave(calls, rounds=1, least=1, clock=bench.clock, cap={"a": 0.5, "slow": 99.0, "broken": 1.0})
    assert set(own.seconds) == {"slow"}
    assert found.dropped == {"slow": "one call takes 61 s, more than 60 s", "broken": "failed: RuntimeError: no room"}


def test_the_device_is_waited_for() -> None:
    bench = Bench()
    waits: list[float] = []
    interleave({"a": bench.call("a", 1.0)}, rounds=1, clock=bench.clock, synchronize=lambda: waits.append(bench.now))
    assert waits == [0.0, 1.0, 1.0, 2.0]


def test_medians() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    with pytest.raises(ValueError):
        median([])
