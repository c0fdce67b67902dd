"""Curves as SVG files that look the same every time they are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..models.files import replace_file


def plot_losses(path: Path, lines: list[dict[str, Any]], *, factor: float, unit: str, title: str) -> None:
    """Training and validation loss against steps, from the lines of `metrics.jsonl`.

    Args:
        path: the file to write.
        lines: those with "loss" are training, those with "validation_loss" validation, both in nats per prediction.
        factor: from nats to `unit`.
        unit: label of the axis.
        title: of the plot.
    """
    training = [(line["step"], line["loss"] * factor) for line in lines if line.get("loss") is not None]
    validation = [(line["step"], line["validation_loss"] * factor) for line in lines if "validation_loss" in line and not line.get("final")]
    figure, axes = _figure()
    if training:
        axes.plot(*zip(*training, strict=True), color="#9db4c8", linewidth=1, label="training")
    if validation:
        axes.plot(*zip(*validation, strict=True), color="#1f4e79", marker="o", markersize=4, linewidth=1.5, label="validation sample")
    low = min((value for _, value in [*training, *validation]), default=0.0)
    high = max((value for _, value in [*training[1:], *validation]), default=1.0)
    axes.set_ylim(max(0.0, low - 0.05 * (high - low)), high + 0.05 * (high - low) + 1e-9)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(unit)
    axes.set_title(title, fontsize=10)
    if training or validation:
        axes.legend(frameon=False)
    _save(figure, path)


def plot_rates(path: Path, rates: list[float], losses: list[float], smoothed: list[float], suggested: float) -> None:
    """Loss against learning rate, with the suggested rate marked."""
    figure, axes = _figure()
    axes.semilogx(rates, losses, color="#9db4c8", linewidth=1, label="loss")
    axes.semilogx(rates, smoothed, color="#1f4e79", linewidth=1.5, label="smoothed")
    axes.axvline(suggested, color="#b3541e", linewidth=1, linestyle="--", label=f"suggested {suggested:g}")
    axes.set_ylim(min(smoothed) * 0.95, min(max(losses), losses[0] * 1.3))
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss, nats")
    axes.legend(frameon=False)
    _save(figure, path)


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot, which looks for a screen

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "subquadratic"}):  # else names inside differ from one drawing to the next
        replace_file(path, lambda file: figure.savefig(file, format="svg", metadata={"Date": None}))
