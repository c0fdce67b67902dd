"""Axes, labels and charts: where things stand, and that each chart is well-formed and says what it shows."""

import itertools
import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.comparison import synthetic

from subquadratic.comparison.report.drawing import HEIGHT, WIDTH, Chart, Line, Mark, svg
from subquadratic.comparison.report.labels import LINE, beside, spread_out
from subquadratic.comparison.report.page import material
from subquadratic.comparison.report.scales import number_word, scale

SVG = "{http://www.w3.org/2000/svg}"
POSITIVE = st.floats(1e-9, 1e15)


@given(st.lists(POSITIVE, min_size=1, max_size=9), st.booleans())
def test_every_number_is_on_the_axis_and_the_ticks_are_round(numbers: list[float], log: bool) -> None:
    axis = scale(numbers, start=0, end=100, log=log)
    assert all(-1e-6 <= axis(number) <= 100 + 1e-6 for number in numbers)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 7 and ticks == sorted(ticks)
    assert all(-1e-6 <= axis(tick) <= 100 + 1e-6 for tick in ticks)
    order = sorted(numbers)
    assert all(axis(a) <= axis(b) for a, b in itertools.pairwise(order))


def test_words_of_numbers() -> None:
    numbers = (0, 0.05, 1.25, 250, 1500, 16384, 1.5e6, 2e9, 3.2e13, 0.0005)
    assert [number_word(number) for number in numbers] == ["0", "0.05", "1.25", "250", "1,500", "16.4k", "1.5M", "2G", "32T", "5e-4"]


@given(st.lists(st.floats(0, 300), min_size=1, max_size=12))
def test_labels_keep_their_distance_and_their_order(wanted: list[float]) -> None:
    places = spread_out(wanted, 0, 300)
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    assert all(places[b] - places[a] >= LINE - 1e-6 for a, b in itertools.pairwise(order))
    assert min(places) >= -1e-6 and max(places) <= 300 + 1e-6


@given(st.lists(st.floats(40, 260), min_size=1, max_size=12, unique=True))
def test_labels_that_have_room_stay_where_they_belong(wanted: list[float]) -> None:
    kept = [place for place in sorted(wanted) if all(place == other or abs(place - other) >= LINE for other in wanted)]
    if len(kept) == len(wanted):
        assert spread_out(wanted, 0, 300) == pytest.approx(wanted)


def test_names_beside_points_do_not_cover_each_other() -> None:
    points = [(100.0, 100.0), (104.0, 104.0), (110.0, 96.0), (430.0, 100.0)]
    names = ["Performer", "Linformer", "Fastformer", "Transformer"]
    found = beside(points, names, (60, 20, 480, 300))
    boxes = [
        (x - {"start": 0, "end": 7 * len(n), "middle": 3.5 * len(n)}[anchor], y, 7 * len(n))
        for (x, y, anchor), n in zip(found, names, strict=True)
    ]
    for (a, top, wide), (b, other, wider) in itertools.combinations(boxes, 2):
        assert abs(top - other) >= 14 or a + wide <= b or b + wider <= a
    assert found[3][2] == "end"  # there is no room at its right


def chart(**changes: object) -> Chart:
    lines = [
        Line(name="a", style=0, marks=[Mark(x=1, y=2, low=1.9, high=2.1), Mark(x=10, y=1)]),
        Line(name="b", style=1, marks=[Mark(x=2, y=3)]),
    ]
    values = {"slug": "x", "title": "Title", "across": "x", "up": "y", "lines": lines, "description": "What it shows."}
    return Chart(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes", [{}, {"log_x": True, "log_y": True}, {"scattered": True, "front": [(1, 2), (2, 3)]}, {"references": {"xz": 1.5}}]
)
def test_a_chart_alone_is_a_whole_file(changes: dict[str, object]) -> None:
    text = svg(chart(**changes), alone=True)
    root = ET.fromstring(text.encode())
    assert root.tag == f"{SVG}svg" and root.find(f"{SVG}title").text == "Title" and root.find(f"{SVG}desc").text == "What it shows."  # type: ignore[union-attr]
    assert "prefers-color-scheme:dark" in text and "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert root.get("role") == "img" and root.get("aria-labelledby") == "x-title x-desc"


def test_what_is_drawn_stands_in_the_picture() -> None:
    for found in material(synthetic.comparison()).charts:
        root = ET.fromstring(svg(found, alone=True).encode())
        for text in root.iter(f"{SVG}text"):
            x, width = float(text.get("x", 0)), 7 * len(text.text or "")
            left = x - {"start": 0, "middle": width / 2, "end": width}[text.get("text-anchor", "start")]
            assert left >= -14 and left + width <= WIDTH + 14 and 0 <= float(text.get("y", 0)) <= HEIGHT, (found.slug, text.text)


def test_points_stand_where_their_numbers_say() -> None:
    root = ET.fromstring(svg(chart(), alone=True).encode())
    marks = [path for path in root.iter(f"{SVG}path") if path.get("class") == "mark" and path.find(f"{SVG}title") is not None]
    places = {
        path.find(f"{SVG}title").text: tuple(map(float, re.findall(r"[\d.]+", path.get("transform", ""))))
        for path in marks  # type: ignore[union-attr]
    }
    (ax, ay), (bx, by), (cx, cy) = places["a: 1, 2"], places["a: 10, 1"], places["b: 2, 3"]
    assert (cx - ax) / (bx - ax) == pytest.approx(1 / 9, abs=0.01)
    assert (by - ay) == pytest.approx(ay - cy, abs=0.2) and by > ay > cy
