"""A claim's plot as an SVG file that looks the same every time it is drawn, on a light page and on a dark one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..heads.files import replace_file
from .claim import Plot

INK = "#7d7d7d"
COLOURS = ("#5b93cf", "#d9772b", "#4fa36a", "#a06cc0", "#b59a2e", "#2fa0a8")  # of middle lightness, for either background
MARKERS = "os^Dv*"
DASHES = ((0, (4, 2)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)), (0, (9, 3)))
WIDEST, NARROWEST = 2.6, 1.1  # of lines, the first below the others
FEW = 20  # points, which all get markers
MARKED = 6  # points of a longer line that do, about
SIGN = 0.0125  # width of a letter of a tick's label, as a share of the axis


def draw(plot: Plot, path: Path) -> None:
    """Lines with their names, as an SVG file without a background, whole or not at all."""
    import matplotlib
    from matplotlib.figure import Figure  # without pyplot, which looks for a screen

    figure = Figure(figsize=(6.8, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, which="both")
    axes.grid(alpha=0.25, color=INK)
    for name, look in looks(plot).items():
        shown = [(x, y) for x, y in plot.series[name] if math.isfinite(x) and math.isfinite(y)]
        axes.plot([x for x, _ in shown], [y for _, y in shown], label=name, **look)
    _scales(axes, plot)
    axes.set_xlabel(plot.x, color=INK)
    axes.set_ylabel(plot.y, color=INK)
    figure.legend(fontsize=8, frameon=False, labelcolor=INK, loc="outside right upper", handlelength=2.6)
    # Without a salt names inside differ from one drawing to the next; letters as letters are read aloud, and take less than their outlines.
    with matplotlib.rc_context({"svg.hashsalt": "subquadratic", "svg.fonttype": "none"}):
        replace_file(path, lambda file: figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True))


def looks(plot: Plot) -> dict[str, dict[str, Any]]:
    """How each line is drawn, so that those that coincide are all seen: the later the narrower and further above, markers of its own form
    (on a long line a few, at other places than those of the others), every second one's wide and hollow, and what others are compared with
    dashed, with the widest.

    A dashed line has the colour of the solid one whose name it shares a part with, as in "positive, measured" and "positive, Lemma 2".
    """
    names = [*(name for name in plot.series if name not in plot.dashed), *(name for name in plot.series if name in plot.dashed)]
    partners = _partners(plot)
    return {name: _look(plot, name, place, names.index(partners.get(name, name)), len(names)) for place, name in enumerate(names)}


def _partners(plot: Plot) -> dict[str, str]:
    """Of each dashed line the solid one; nothing unless each has another."""
    solid = [name for name in plot.series if name not in plot.dashed]
    found: dict[str, str] = {}
    for name in (name for name in plot.series if name in plot.dashed):
        near = [other for other in solid if set(name.split(", ")) & set(other.split(", ")) and other not in found.values()]
        if not near:
            return {}
        found[name] = near[0]
    return found


def _look(plot: Plot, name: str, place: int, colour: int, count: int) -> dict[str, Any]:
    hollow = name in plot.dashed or place % 2 == 1
    dashed, size = name in plot.dashed, len(plot.series[name])
    share = place / max(1, count - 1)
    each = 1 if size < FEW else max(count, size // MARKED)  # points from marker to marker
    look: dict[str, Any] = {
        "color": COLOURS[colour % len(COLOURS)],
        "linestyle": DASHES[place % len(DASHES)] if dashed else "-",
        "linewidth": NARROWEST if dashed else WIDEST + share * (NARROWEST - WIDEST),
        "zorder": 2 + share,
        "marker": MARKERS[colour % len(MARKERS)],
        "markersize": 10.0 if dashed else 7.5 if hollow else 4.5,
        "markevery": (place * each // count, each),
    }
    return look | ({"markerfacecolor": "none", "markeredgewidth": 1.0} if hollow else {})


def _scales(axes: Any, plot: Plot) -> None:
    """Logarithmic where asked for, with the measured places named where they are few."""
    places = sorted({x for points in plot.series.values() for x, _ in points})
    if plot.x_log:
        axes.set_xscale("log", base=2)
    if plot.y_log:
        axes.set_yscale("log")
    if len(places) <= 12:
        axes.set_xticks(places, labels(places, log=plot.x_log))
        axes.set_xticks([], minor=True)
    axes.tick_params(axis="both", labelsize=8)


def labels(places: list[float], *, log: bool) -> list[str]:
    """Names of places in ascending order; empty where the name would run into that of the one before. The last has one."""
    at = [math.log(place) if log else place for place in places]
    whole = (at[-1] - at[0]) * 1.1 or 1.0  # with the margins of the axis
    names = [f"{place:,g}" for place in places]
    kept: list[int] = []
    for index, name in enumerate(names):
        last = index == len(names) - 1
        while kept and (at[index] - at[kept[-1]]) / whole < SIGN * ((len(name) + len(names[kept[-1]])) / 2 + 1):
            if not last or len(kept) == 1:
                break
            kept.pop()
        else:
            kept.append(index)
    return [name if index in kept else "" for index, name in enumerate(names)]
