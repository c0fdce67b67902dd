"""Any beginning of the order stands for the whole."""

import time

from hypothesis import given
from hypothesis import strategies as st

from subquadratic.comparison.measuring.spread import evenly_spread, groups_until


@given(count=st.integers(0, 300))
def test_each_place_comes_once(count: int) -> None:
    assert sorted(evenly_spread(count)) == list(range(count))


@given(count=st.integers(4, 2000), power=st.integers(0, 4))
def test_beginnings_are_spread_over_all(count: int, power: int) -> None:
    parts = 2**power
    most = min(count, 2 * parts)
    first = sorted(place for place, _ in zip(evenly_spread(count), range(most), strict=False))
    gaps = [after - before for before, after in zip([-1, *first], [*first, count], strict=True)]
    assert max(gaps) <= 4 * count / most + 1


def test_groups_end_with_the_deadline_and_with_the_most() -> None:
    assert [len(group) for group in groups_until(None, count=10, most=7, size=3)] == [3, 3, 1]
    assert len(list(groups_until(time.monotonic() - 1, count=10, most=7, size=3))) == 1
    assert list(groups_until(None, count=0, most=7, size=3)) == []
