"""A claim's plot as an SVG file that looks the same every time it is drawn, on a light page and on a dark one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..heads.files import replace_file
from .claim import Plot

INK = "#7d7d7d"
COLOURS = ("#5b93cf", "#d9772b", "#4fa36a", "#a06cc0", "#b59a2e", "#2fa0a8")  # of middle lightness, for either background


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
    solid = [name for name in plot.series if name not in plot.dashed]
    for name, points in plot.series.items():
        shown = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        place = solid.index(name) if name in solid else list(plot.dashed).index(name)
        axes.plot(
            [x for x, _ in shown], [y for _, y in shown], "-" if name in solid else "--", color=COLOURS[place % len(COLOURS)],
            marker="o" if len(shown) < 20 else None, markersize=3.5, linewidth=1.5, label=name,
        )  # fmt: skip
    _scales(axes, plot)
    axes.set_xlabel(plot.x, color=INK)
    axes.set_ylabel(plot.y, color=INK)
    figure.legend(fontsize=8, frameon=False, labelcolor=INK, loc="outside right upper")
    # Without a salt names inside differ from one drawing to the next; letters as letters are read aloud, and take less than their outlines.
    with matplotlib.rc_context({"svg.hashsalt": "subquadratic", "svg.fonttype": "none"}):
        replace_file(path, lambda file: figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True))


def _scales(axes: Any, plot: Plot) -> None:
    """Logarithmic where asked for, with the measured places named where they are few."""
    places = sorted({x for points in plot.series.values() for x, _ in points})
    if plot.x_log:
        axes.set_xscale("log", base=2)
    if plot.y_log:
        axes.set_yscale("log")
    if len(places) <= 12:
        axes.set_xticks(places, [f"{place:,g}" for place in places])
        axes.set_xticks([], minor=True)
    axes.tick_params(axis="both", labelsize=8)
