"""Dividing the time of a comparison."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquadratic.comparison.conditions import CHECKED, ENOUGH_ITEMS, LOADING, MOST_ITEMS, Examination, Probe, divide
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
    each = seeds * sum(probe.item_seconds for probe in probes)
    starting, validating = found.starting_seconds * runs, (found.items + CHECKED * found.sample_items) * each
    assert training + starting + validating + found.examine_seconds * runs + found.speed_seconds + LOADING <= left * 1.1
    assert training + searching >= 0.25 * left - starting - validating - LOADING - sum(probe.step_seconds for probe in probes) * runs
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


def test_everything_is_scored_where_there_is_time() -> None:
    probes = [Probe("quick", 0.01, 0.001, 1e6)]
    given: dict[str, Any] = {"left": 600, "tokens_per_step": 512}
    assert divide(CompareOptions(), probes, available_items=154, **given).items == 154
    assert divide(CompareOptions(), probes, available_items=10**6, **given).items == MOST_ITEMS
    slow = divide(CompareOptions(), [Probe("slow", 0.1, 0.7, 1e6)], available_items=1000, **given)
    assert slow.items == ENOUGH_ITEMS > slow.sample_items, "few rows tell little: training gives way"


def test_what_is_examined_is_the_same_for_all_and_fits_the_time() -> None:
    probes = [Probe("quick", 0.01, 0.01, 1e6), Probe("slow", 0.1, 0.2, 1e6)]
    given: dict[str, Any] = {"left": 300, "tokens_per_step": 512, "available_items": 100}
    found = divide(CompareOptions(), probes, examination=Examination(passes=1, targets=64, windows=6), **given)
    room = 0.06 * 295 / 2
    assert 1 <= found.examine_windows <= room / (3 * 0.21) and found.examine_targets % 64 == 0
    assert found.examine_targets / 64 * 6 * 3 * 0.21 <= room + 6 * 3 * 0.21
    none = divide(CompareOptions(), probes, **given)
    assert none.examine_windows == none.examine_targets == 0 and (none.run_seconds or 0) > (found.run_seconds or 0)
