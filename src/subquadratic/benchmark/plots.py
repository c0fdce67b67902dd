"""Costs against length, drawn from saved results: time and memory of a training step, and time of a token against its context."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..heads.files import replace_file
from .results import Run, Side

COLOURS = {
    "performer": "#1f4e79", "linformer": "#b8541a", "fastformer": "#2f7d4f", "perceiver_ar": "#7a3b8f", "feedback_transformer": "#8a6d1b",
    "gated_linear": "#00798c", "transformer": "#555555", "x-transformers": "#000000",
}  # fmt: skip
NAMES = {
    "performer": "Performer", "linformer": "Linformer", "fastformer": "Fastformer", "perceiver_ar": "Perceiver AR",
    "feedback_transformer": "Feedback Transformer", "gated_linear": "Gated linear attention",
    "transformer": "Transformer (ours, exact)", "x-transformers": "x-transformers (flash)",
}  # fmt: skip
EXACT = ("x-transformers", "transformer")
Points = list[tuple[int, float]]
DRAWINGS: dict[str, tuple[str, str, str, str, Callable[[Side], float | None]]] = {
    "train_time.png": ("lengths/train/", "Training step", "sequence length (tokens)", "time of a step (s)", lambda side: side.time),
    "train_memory.png": (
        "lengths/train/", "Peak memory of a training step, above the weights", "sequence length (tokens)", "peak memory (MB)",
        lambda side: None if not side.above_bytes else side.above_bytes / 1e6,
    ),
    "decode_latency.png": (
        "lengths/decode/", "One more token", "tokens of context before it", "time of a token (ms)",
        lambda side: None if side.per_token is None else 1e3 * side.per_token,
    ),
}  # fmt: skip


def draw(run: Run, folder: Path) -> list[Path]:
    """All drawings that the results have two lengths for, as PNG files in a folder."""
    written = []
    for name, (prefix, title, across, up, value) in DRAWINGS.items():
        lines = curves(run, prefix, value)
        if any(len(points) > 1 for points in lines.values()):
            figure = _figure(lines, ends(run, prefix, value), title=f"{title}\n{_where(run)}", across=across, up=up)
            replace_file(folder / name, lambda file, figure=figure: figure.savefig(file, format="png", dpi=150, facecolor="white"))  # type: ignore[misc]
            written.append(folder / name)
    return written


def curves(run: Run, prefix: str, value: Callable[[Side], float | None]) -> dict[str, Points]:
    """(length, value) of every side, in the order of lengths, over the cases whose names begin so. What was not measured has no point."""
    found: dict[str, Points] = {}
    for result in sorted(run.results, key=lambda result: result.case.length):
        if result.case.name.startswith(prefix) and not result.refused:
            for side in result.sides:
                measured = value(side)
                if measured is not None:
                    found.setdefault(side.name, []).append((result.case.length, measured))
    return found


def ends(run: Run, prefix: str, value: Callable[[Side], float | None]) -> dict[str, str]:
    """Why the line of a side ends before the others do, in a word or two."""
    lines = curves(run, prefix, value)
    found = {}
    for name, points in lines.items():
        last = points[-1][0]
        if last < max(length for others in lines.values() for length, _ in others):
            cases = (result for result in run.results if result.case.name.startswith(prefix) and result.case.length > last)
            following = min(cases, key=lambda result: result.case.length)
            side = following.side(name)
            found[name] = _in_short(following.refused or (side.note if side else ""))
    return found


def _in_short(note: str) -> str:
    """A note of the results as a label: no room for more beside a line."""
    limit = re.search(r"more than (\d+ s)", note)
    if limit:
        return f"over {limit[1]}"
    if re.search(r"memory|alloc", note, flags=re.IGNORECASE):
        return "out of memory"
    return "failed" if note else "not measured"


def crossover(ours: Points, exact: Points) -> tuple[float, float] | None:
    """Where ours falls below exact attention and stays there, between two measured lengths on straight lines of the log-log plot;
    None if it does not, or always is."""
    theirs = dict(exact)
    shared = [(length, math.log(value), math.log(theirs[length])) for length, value in ours if length in theirs]
    for (left, a, b), (right, c, d) in reversed(list(itertools.pairwise(shared))):
        if c >= d:
            return None
        if a >= b:
            part = (a - b) / ((a - b) - (c - d))
            return math.exp(math.log(left) + part * math.log(right / left)), math.exp(a + part * (c - a))
    return None


def _figure(lines: dict[str, Points], reasons: dict[str, str], *, title: str, across: str, up: str) -> Any:
    from matplotlib.figure import Figure  # without pyplot, which looks for a screen

    figure = Figure(figsize=(8.6, 4.6), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, which="major")
    exact = next((lines[name] for name in EXACT if name in lines), [])
    crossings = []
    for name, points in lines.items():
        colour = COLOURS.get(name, "#888888")
        dashed = "--" if name in EXACT else "-"
        axes.plot(*zip(*points, strict=True), dashed, color=colour, marker="o", markersize=4, linewidth=1.7, label=NAMES.get(name, name))
        if name in reasons:
            axes.annotate(
                reasons[name], points[-1], xytext=(7, -3), textcoords="offset points", fontsize=8, color=colour, zorder=3,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
            )  # fmt: skip
        cross = None if name in EXACT else crossover(points, exact)
        if cross is not None:
            crossings.append((cross, colour))
    for index, (cross, colour) in enumerate(crossings):  # last, so that the legend's line for them is
        label = "_" if index else "from here on less than\nexact attention"
        axes.plot(*cross, marker="x", markersize=9, markeredgewidth=2, color=colour, linestyle="none", label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    lengths = sorted({length for points in lines.values() for length, _ in points})
    axes.set_xticks(lengths, [_round(length, across) for length in lengths])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:,g}" if f"{value:e}"[0] in "25" else "")
    low, high = axes.get_ylim()
    if high < 10 * low:  # a decade at least, so that small differences look small
        axes.set_ylim((low * high / 10) ** 0.5, (10 * low * high) ** 0.5)
    axes.tick_params(axis="y", which="minor", labelsize=8)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_title(title, fontsize=10, loc="left")
    figure.legend(fontsize=8, frameon=False, loc="outside right upper")
    return figure


def _round(length: int, across: str) -> str:
    return f"{length // 1024}k" if "sequence" in across and length % 1024 == 0 else f"{length:,}"


def _where(run: Run) -> str:
    machine, sizes = run.machine, _sizes(run)
    device = machine.get("gpu") if str(run.settings.get("device")).startswith("cuda") else machine.get("processor")
    return f"{device}, {machine.get('threads')} thread{'s' * (machine.get('threads') != 1)}, {run.settings.get('dtype')}{sizes}"


def _sizes(run: Run) -> str:
    found: Sequence[Any] = [result.case.sizes for result in run.results if result.case.name.startswith("lengths/")]
    return f"; dim {found[0].dim}, depth {found[0].depth}, {found[0].heads} heads" if found else ""
