"""Charts as SVG: lines with bands, and points with bars, that follow the colours of the page they stand in."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

from ...evaluation.report import shortened
from ..wording import clean
from .labels import LETTER, beside, spread_out
from .scales import Scale, number_word, scale
from .style import SHAPES, chart_rules, classes, pattern, themes

WIDTH, HEIGHT = 620.0, 360.0
LEFT, TOP, BOTTOM = 62.0, 26.0, 46.0
NAME = 22  # letters of a name beside a line
MARKED = 16  # points of a line beyond which only some are marked


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point; `low` and `high` are the ends of its band or bar."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """What belongs to one entry. `style` chooses colour, dashes and markers."""

    name: str
    style: int
    marks: list[Mark]
    hollow: bool = False
    """Of points: not on the Pareto front."""
    more: str = ""
    """Behind its name: a slope, perhaps."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart and what is said about it. `lines` are joined, unless `scattered`. `focus` are numbers of y that decide its axis, where not
    all should."""

    slug: str
    title: str
    across: str
    up: str
    lines: list[Line]
    description: str
    log_x: bool = False
    log_y: bool = False
    scattered: bool = False
    ticks: list[float] | None = None
    references: dict[str, float] = field(default_factory=dict)
    front: list[tuple[float, float]] = field(default_factory=list)
    focus: list[float] | None = None
    note: str = ""
    """What must be known to read it, beside it."""
    write_x: Callable[[float], str] = number_word
    write_y: Callable[[float], str] = number_word


def svg(chart: Chart, *, alone: bool = False) -> str:
    """The chart; `alone` with its own colours, for a file of its own."""
    root = ET.Element(
        "svg",
        {
            "class": "chart",
            "viewBox": f"0 0 {WIDTH:g} {HEIGHT:g}",
            "role": "img",
            "aria-labelledby": f"{chart.slug}-title {chart.slug}-desc",
        },
    )
    ET.SubElement(root, "title", id=f"{chart.slug}-title").text = clean(chart.title)
    ET.SubElement(root, "desc", id=f"{chart.slug}-desc").text = clean(chart.description)
    if alone:
        root.set("xmlns", "http://www.w3.org/2000/svg")
        root.attrib |= {"width": f"{WIDTH:g}", "height": f"{HEIGHT:g}"}
        ET.SubElement(root, "style").text = f"{themes(':root')}\n{chart_rules()}"
        ET.SubElement(root, "rect", width="100%", height="100%", style="fill:var(--paper)")
    x, y = _scales(chart)
    _axes(root, chart, x, y)
    _references(root, chart, x, y)
    if chart.front:
        _path(root, "front", [(x(a), y(b)) for a, b in chart.front])
    places = [[(x(mark.x), y(mark.y)) for mark in line.marks] for line in chart.lines]
    right = _right(chart)
    area = {"x": f"{LEFT:g}", "y": f"{TOP:g}", "width": f"{right - LEFT + 6:g}", "height": f"{HEIGHT - BOTTOM - TOP + 6:g}"}
    ET.SubElement(ET.SubElement(root, "clipPath", id=f"{chart.slug}-area"), "rect", area)
    for line, points in zip(chart.lines, places, strict=True):
        group = ET.SubElement(root, "g", {"class": classes(line.style), "clip-path": f"url(#{chart.slug}-area)"})
        ET.SubElement(group, "title").text = clean(line.name)
        _extent(group, chart, line, points, y)
        if not chart.scattered:
            _path(group, "line", points)
        _marks(group, chart, line, points)
    _names(root, chart, places)
    text = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n' if alone else text


def _scales(chart: Chart) -> tuple[Scale, Scale]:
    marks = [mark for line in chart.lines for mark in line.marks]
    right = _right(chart)
    x = scale([mark.x for mark in marks], start=LEFT, end=right, log=chart.log_x)
    heights = chart.focus or [
        end for mark in marks for end in (mark.y, mark.low, mark.high) if end is not None and (end > 0 or not chart.log_y)
    ]
    least = 10.0 if chart.log_y else 0.0  # a decade at least, so that small differences look small
    return x, scale(heights, start=HEIGHT - BOTTOM, end=TOP, log=chart.log_y, least=least)


def _axes(root: ET.Element, chart: Chart, x: Scale, y: Scale) -> None:
    bottom, right = HEIGHT - BOTTOM, _right(chart)
    for number in y.ticks():
        _line(root, "grid", LEFT, y(number), right, y(number))
        _text(root, "tick", _short(chart.write_y(number)), LEFT - 7, y(number) + 4, "end")
    free = 0.0
    for number in chart.ticks or x.ticks():
        _line(root, "grid", x(number), TOP, x(number), bottom)
        word = _short(chart.write_x(number))
        if x(number) - LETTER * len(word) / 2 > free:
            _text(root, "tick", word, x(number), bottom + 17, "middle")
            free = x(number) + LETTER * len(word) / 2
    _path(root, "frame", [(LEFT, TOP), (LEFT, bottom), (right, bottom)])
    _text(root, "axis", chart.across, (LEFT + right) / 2, HEIGHT - 9, "middle")
    _text(root, "axis", chart.up, 6, 14, "start")


def _references(root: ET.Element, chart: Chart, x: Scale, y: Scale) -> None:
    """Dashed lines at what the values are compared with, where the axis has them."""
    for name, number in chart.references.items():
        if y.low <= number <= y.high:
            _line(root, "reference", LEFT, y(number), _right(chart), y(number))
            _text(root, "tick", f"{shortened(name, NAME)} {chart.write_y(number)}", LEFT + 5, y(number) - 4, "start")


def _extent(group: ET.Element, chart: Chart, line: Line, points: Sequence[tuple[float, float]], y: Scale) -> None:
    """The band or the bars."""
    ends = [
        (place, y(max(mark.low, y.low) if chart.log_y else mark.low), y(mark.high))
        for (place, _), mark in zip(points, line.marks, strict=True)
        if mark.low is not None and mark.high is not None
    ]
    if chart.scattered:
        for place, low, high in ends:
            _line(group, "bar", place, low, place, high)
    elif len(ends) > 1:
        _path(group, "band", [(a, high) for a, _, high in ends] + [(a, low) for a, low, _ in reversed(ends)], close=True)


def _marks(group: ET.Element, chart: Chart, line: Line, points: Sequence[tuple[float, float]]) -> None:
    every = 1 if len(points) <= MARKED else -(-len(points) // 8)
    for index, ((a, b), mark) in enumerate(zip(points, line.marks, strict=True)):
        if (index % every and index != len(points) - 1) or not TOP - 1 <= b <= HEIGHT - BOTTOM + 1:
            continue
        attributes = {
            "class": "hollow" if line.hollow else "mark",
            "d": SHAPES[pattern(line.style)],
            "transform": f"translate({a:.1f} {b:.1f})",
        }
        shape = ET.SubElement(group, "path", attributes)
        note = f" ({mark.note})" if mark.note else ""
        ET.SubElement(shape, "title").text = clean(f"{line.name}: {chart.write_x(mark.x)}, {chart.write_y(mark.y)}{note}")


def _names(root: ET.Element, chart: Chart, places: Sequence[Sequence[tuple[float, float]]]) -> None:
    """Beside each point, or in the right margin at the end of each line."""
    shown = [(line, points) for line, points in zip(chart.lines, places, strict=True) if points]
    words = [clean(f"{shortened(line.name, NAME - len(line.more))}{line.more}") for line, _ in shown]
    if chart.scattered:
        found = beside([points[0] for _, points in shown], words, (LEFT, TOP, WIDTH, HEIGHT - BOTTOM))
        for word, (a, b, anchor) in zip(words, found, strict=True):
            _text(root, "name", word, a, b, anchor)
        return
    ends = [points[-1] for _, points in shown]
    heights = spread_out([_inside(b) for _, b in ends], TOP + 4, HEIGHT - BOTTOM)
    for (line, _), word, (a, b), height in zip(shown, words, ends, heights, strict=True):
        group = ET.SubElement(root, "g", {"class": classes(line.style)})
        _line(group, "lead", a + 5, _inside(b), _right(chart) + 10, height)
        shape = {"class": "mark", "d": SHAPES[pattern(line.style)], "transform": f"translate({_right(chart) + 15:.1f} {height:.1f})"}
        ET.SubElement(group, "path", shape)
        _text(group, "name", word, _right(chart) + 23, height + 4, "start")


def _short(word: str) -> str:
    """A number of an axis without the zeros behind its point."""
    return re.sub(r"(\.\d*?)0+(?!\d)", lambda found: "" if found[1] == "." else found[1], word)


def _right(chart: Chart) -> float:
    """Where the axis ends: names of lines stand right of it, those of points anywhere."""
    return WIDTH - (100.0 if chart.scattered else 182.0)


def _inside(height: float) -> float:
    """Where the name of a line stands that leaves the axis."""
    return min(max(height, TOP), HEIGHT - BOTTOM)


def _line(parent: ET.Element, kind: str, x1: float, y1: float, x2: float, y2: float) -> None:
    _path(parent, kind, [(x1, y1), (x2, y2)])


def _path(parent: ET.Element, kind: str, points: Sequence[tuple[float, float]], *, close: bool = False) -> None:
    if points:
        d = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points) + ("z" if close else "")
        ET.SubElement(parent, "path", {"class": kind, "d": d})


def _text(parent: ET.Element, kind: str, words: str, x: float, y: float, anchor: str) -> None:
    ET.SubElement(parent, "text", {"class": kind, "x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}).text = clean(words)
