"""Curves as SVG files that look the same every time they are drawn, on a light page and on a dark one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..heads.files import replace_file

# No background, and colours of middle lightness: a page shows them in its own light or dark theme.
INK, TRAINING, VALIDATION, MARK = "#7d7d7d", "#5b93cf", "#d9772b", "#c0605a"
BEGINNING = 0.1  # of the steps, which decide nothing of the axis of losses
NEAR = 1.6  # a reference so many times above, or below, what else is drawn is named at the margin instead
Points = list[tuple[int, float]]


def plot_run(
    path: Path, lines: list[dict[str, Any]], *, factor: float, unit: str, references: dict[str, float], title: str
) -> None:
    """Losses against steps, and below them learning rate and tokens a second, from the lines of `metrics.jsonl`.

    Args:
        path: the file to write.
        lines: those with "loss" are training, those with "validation_loss" validation, both in nats per prediction.
        factor: from nats to `unit`.
        unit: label of the axis.
        references: what the losses are compared with, by name, in `unit`.
        title: of the plot.
    """
    steps = [line for line in lines if line.get("loss") is not None]
    training = [(line["step"], line["loss"] * factor) for line in steps]
    validation = [(line["step"], line["validation_loss"] * factor) for line in lines if "validation_loss" in line and not line.get("final")]
    figure = _figure(height=5.6)
    losses, rates, speeds = figure.subplots(3, 1, sharex=True, height_ratios=(5, 1.2, 1.2))
    losses.plot(*_columns(training), color=TRAINING, linewidth=1, label="training")
    losses.plot(*_columns(validation), color=VALIDATION, marker="o", markersize=5, linestyle="none", label="validation sample")
    _draw_references(losses, references, *loss_range(training, validation, references))
    below = ((rates, "learning_rate", "learning rate", steps), (speeds, "tokens_per_second", "tokens/s", steps[1:]))  # step 1 warms up
    for axes, key, label, measured in below:
        axes.plot(*_columns([(line["step"], line[key]) for line in measured if key in line]), color=TRAINING, linewidth=1)
        axes.set_ylabel(label, fontsize=8)
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="y", nbins=2)
    losses.set_ylabel(unit)
    for axes in (losses, rates, speeds):
        _style(axes)
    speeds.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    speeds.set_xlabel("optimizer step")
    _whole_numbers(speeds)
    figure.align_ylabels()
    losses.set_title(title, fontsize=10, color=INK, loc="left")
    losses.legend(frameon=False, labelcolor=INK, fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 0.985))
    _save(figure, path)


def loss_range(training: Points, validation: Points, references: dict[str, float]) -> tuple[float, float]:
    """The ends of the axis of losses: what comes after the first tenth of the steps, and the references near it."""
    points = [*training, *validation]
    last = max((step for step, _ in points), default=0)
    shown = [value for step, value in points if step >= BEGINNING * last] or [0.0, 1.0]
    near = [value for value in references.values() if min(shown) / NEAR <= value <= max(shown) * NEAR]
    low, high = min([*shown, *near]), max([*shown, *near])
    margin = 0.06 * (high - low) + 1e-9
    return max(0.0, low - margin), high + margin


def plot_rates(path: Path, rates: list[float], losses: list[float], smoothed: list[float], suggested: float) -> None:
    """Loss against learning rate, with the suggested rate marked."""
    figure = _figure(height=3.6)
    axes = figure.subplots()
    _style(axes)
    axes.semilogx(rates, losses, color=TRAINING, linewidth=1, alpha=0.6, label="loss")
    axes.semilogx(rates, smoothed, color=TRAINING, linewidth=1.8, label="smoothed")
    axes.axvline(suggested, color=MARK, linewidth=1, linestyle="--", label=f"suggested {suggested:g}")
    axes.set_ylim(min(smoothed) * 0.95, min(max(losses), losses[0] * 1.3))
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss, nats")
    axes.legend(frameon=False, labelcolor=INK)
    _save(figure, path)


def _draw_references(axes: Any, references: dict[str, float], low: float, high: float) -> None:
    """Dashed lines with their names; those outside of the axis are named at its upper or lower end."""
    axes.set_ylim(low, high)
    beyond: dict[str, list[str]] = {"↑": [], "↓": []}
    for name, value in references.items():
        words = f"{name.replace('_', ' ')} {value:.2f}"
        if low <= value <= high:
            axes.axhline(value, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
            where = dict(xycoords=("axes fraction", "data"), textcoords="offset points", xytext=(3, 2))
            axes.annotate(words, (0, value), color=INK, fontsize=8, **where)
        else:
            beyond["↑" if value > high else "↓"].append(words)
    for arrow, place in (("↑", 1.0), ("↓", 0.0)):
        if beyond[arrow]:
            words = f"{arrow} {', '.join(beyond[arrow])}"
            axes.text(0.995, place, words, transform=axes.transAxes, color=INK, fontsize=8, ha="right", va="top" if place else "bottom")


def _columns(points: list[tuple[int, float]]) -> Any:
    return zip(*points, strict=True) if points else ([], [])


def _whole_numbers(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _figure(*, height: float) -> Any:
    from matplotlib.figure import Figure  # without pyplot, which looks for a screen

    return Figure(figsize=(6.8, height), layout="constrained")


def _style(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, which="both")
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(alpha=0.25, color=INK)


def _save(figure: Any, path: Path) -> None:
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "subquadratic"}):  # else names inside differ from one drawing to the next
        replace_file(path, lambda file: figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True))
