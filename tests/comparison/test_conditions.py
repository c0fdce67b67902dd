"""Dividing the time of a comparison."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquadratic.comparison.conditions import STARTING, Probe, divide
from subquadratic.comparison.options import CompareOptions

PROBE = st.builds(
    Probe, name=st.text("abcdefgh", min_size=4, max_size=8), step_seconds=st.floats(1e-3, 0.5), item_seconds=st.floats(1e-4, 0.1),
    flops_per_token=st.floats(1e5, 1e9),
)  # fmt: skip


@given(
    probes=st.lists(PROBE, min_size=1, max_size=8, unique_by=lambda probe: probe.name),
    left=st.floats(300, 1e5), seeds=st.integers(1, 5), rates=st.integers(1, 5), equal=st.sampled_from(["time", "tokens", "flops"]),
)  # fmt: skip
def test_the_parts_take_the_time_there_is(probes: list[Probe], left: float, seeds: int, rates: int, equal: str) -> None:
    options = CompareOptions(seeds=seeds, rates=rates, equal=equal)  # type: ignore[arg-type]
    try:
        found = divide(options, probes, left=left, tokens_per_step=512, available_items=1000)
    except ValueError as error:
        assert "budget" in str(error)
        return
    runs = len(probes) * seeds
    if equal == "time":
        assert found.run_seconds is not None and found.run_steps is None
        training = found.run_seconds * runs
        searching = (found.rate_seconds or 0.0) * len(probes) * (rates if rates > 1 else 0)
    else:
        assert found.run_seconds is None and found.run_steps is not None and found.rate_steps is not None
        training = seeds * sum(found.run_steps[probe.name] * probe.step_seconds for probe in probes)
        searching = (rates if rates > 1 else 0) * sum(found.rate_steps[probe.name] * probe.step_seconds for probe in probes)
    assert training + STARTING * runs + found.examine_seconds * runs + found.speed_seconds <= left * 1.1
    assert training + searching >= 0.3 * left - STARTING * runs - sum(probe.step_seconds for probe in probes) * runs
    assert 1 <= found.sample_items <= found.items <= 1000
    if equal == "tokens":
        assert len(set(found.run_steps.values())) == 1  # type: ignore[union-attr]


def test_equal_operations_give_the_cheaper_model_more_tokens() -> None:
    probes = [Probe("cheap", 0.01, 0.01, 1e6), Probe("dear", 0.02, 0.01, 3e6)]
    found = divide(CompareOptions(equal="flops"), probes, left=600, tokens_per_step=512, available_items=100)
    assert found.run_steps is not None
    assert found.run_steps["cheap"] == pytest.approx(3 * found.run_steps["dear"], abs=3)


def test_too_little_time_says_how_much_is_needed() -> None:
    with pytest.raises(ValueError, match=r"budget: 1 models with 3 seeds need .* s at least"):
        divide(CompareOptions(), [Probe("slow", 30.0, 0.1, 1e6)], left=100, tokens_per_step=512, available_items=100)
