import math

import pytest

from subquadratic.core.schedule import Schedule
from subquadratic.training.options import TrainOptions, parse_duration
from subquadratic.training.resolving import resolve


@pytest.mark.parametrize(
    ("text", "seconds"), [("300", 300), ("90s", 90), ("5m", 300), ("1h30m", 5400), ("1.5h", 5400), ("2m5", 125), (" 1M ", 60)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5m", "5 minutes", "m", "1d", "nan"])
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="budget must be a time such as"):
        parse_duration(text)


def test_the_rate_rises_over_the_warm_up_and_falls_along_a_cosine() -> None:
    schedule = Schedule(max_steps=100, seconds=None, warmup=0.1)
    rates = [schedule.factor(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.01 + 0.99 * 0.5, abs=1e-6)
    assert rates[100] == pytest.approx(0.01)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_along_a_line_it_falls_to_nothing() -> None:
    schedule = Schedule(max_steps=100, seconds=None, warmup=0.1, shape="linear")
    rates = [schedule.factor(step) for step in range(101)]
    assert rates[9] == pytest.approx(1.0) and rates[55] == pytest.approx(0.5) and rates[100] == 0.0


def test_a_budget_follows_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("subquadratic.core.schedule.time.monotonic", lambda: now)
    schedule = Schedule(max_steps=None, seconds=60, warmup=0.05)
    schedule.start(40)
    assert schedule.progress(7) == 0
    now = 1010.0
    assert schedule.progress(7) == 0.25
    assert schedule.remaining(7) == pytest.approx(30)
    assert schedule.factor(7) == pytest.approx(0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * 0.2 / 0.95)))
    now = 1050.0
    assert schedule.progress(7) == 1


def test_without_an_end_it_is_refused() -> None:
    with pytest.raises(ValueError, match="never end"):
        Schedule(max_steps=None, seconds=None, warmup=0)


class TestOptions:
    def test_what_is_not_said_comes_from_the_models_line(self) -> None:
        chosen = resolve(TrainOptions(model="perceiver_ar", dim=64, fields={"latents": 8}))
        assert (chosen.dim, chosen.context, chosen.fields) == (64, 256, {"latents": 8})
        assert chosen.causal is True
        assert chosen.budget == "5m"
        assert resolve(chosen) == chosen

    def test_steps_replace_the_default_budget_and_join_a_given_one(self) -> None:
        assert resolve(TrainOptions(max_steps=5)).budget is None
        assert resolve(TrainOptions(max_steps=5, budget="1m")).seconds() == 60
