"""Lines that coincide are all seen, and names of ticks do not run into each other."""

import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquadratic.reproduction.claim import Plot
from subquadratic.reproduction.plots import SIGN, draw, labels, looks


def lines(names: list[str], points: int, dashed: tuple[str, ...] = ()) -> Plot:
    return Plot(x="x", y="y", series={name: [(float(x), 1.0) for x in range(1, points + 1)] for name in names}, dashed=dashed)


@pytest.mark.parametrize("points", [4, 40])
def test_lines_on_top_of_each_other_are_all_seen(points: int) -> None:
    found = looks(lines(["ours", "twin", "published"], points, dashed=("published",)))
    assert len({look["color"] for look in found.values()}) == 3 and len({look["marker"] for look in found.values()}) == 3
    below, above = found["ours"], found["twin"]
    assert below["linewidth"] > above["linewidth"] and below["zorder"] < above["zorder"] < found["published"]["zorder"]
    assert found["published"]["linestyle"] != "-" and found["published"]["markerfacecolor"] == "none"
    sizes = [look["markersize"] for look in found.values()]
    starts = [look["markevery"][0] for look in found.values()]
    assert len(set(sizes)) == 3 if points == 4 else len(set(starts)) == 3  # around each other, or beside each other
    assert all(look["markevery"][1] == found["ours"]["markevery"][1] for look in found.values())


def test_a_formula_has_the_colour_of_what_it_is_of_and_other_lines_their_own() -> None:
    paired = looks(lines(["positive, measured", "hyperbolic, measured", "hyperbolic, Lemma 2", "positive, Lemma 2"], 4, dashed=(
        "hyperbolic, Lemma 2", "positive, Lemma 2")))  # fmt: skip
    assert paired["positive, measured"]["color"] == paired["positive, Lemma 2"]["color"] != paired["hyperbolic, Lemma 2"]["color"]
    own = looks(lines(["k = 128", "k = 256", "eager", "SDPA"], 4, dashed=("eager", "SDPA")))
    assert len({look["color"] for look in own.values()}) == 4


@given(st.sets(st.integers(1, 100_000), min_size=1, max_size=12), st.booleans())
def test_names_of_ticks_have_room(places: set[int], log: bool) -> None:
    at = sorted(map(float, places))
    found = labels(at, log=log)
    assert found[0] and (found[-1] or len(at) > 1) and all(name in ("", f"{place:,g}") for name, place in zip(found, at, strict=True))
    scale = math.log if log else float
    whole = (scale(at[-1]) - scale(at[0])) * 1.1 or 1.0
    for (one, left), (two, right) in itertools.pairwise((name, scale(place)) for name, place in zip(found, at, strict=True) if name):
        assert (right - left) / whole >= SIGN * (len(one) + len(two)) / 2


def test_near_places_share_a_name() -> None:
    assert labels([16.0, 128.0, 250.0, 256.0], log=True) == ["16", "128", "", "256"]


def test_a_line_with_nothing_finite_is_drawn(tmp_path: Path) -> None:
    draw(Plot(x="x", y="y", series={"a": [(1.0, math.nan)], "b": [(1.0, 2.0), (2.0, 3.0)]}), tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text()
