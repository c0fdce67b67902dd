"""Costs against what grows, drawn from saved results: time and memory of a training step, and time of a token against its context."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..heads.files import replace_file
from .growth import EXACT, LINES, Line, Points, crossover, curves, results_of
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
STEP = "time of a step (s)"
DRAWINGS: dict[str, tuple[Line, str, str, str, Callable[[Side], float | None]]] = {
    "train_time.png": (LINES["length"], "Training step", "sequence length (tokens)", STEP, lambda side: side.time),
    "train_time_8.png": (
        LINES["length, 8 sequences"], "Training step, 8 sequences", "sequence length (tokens)", STEP, lambda side: side.time
    ),
    "train_time_padded.png": (
        LINES["length, 8 padded"], "Training step, 8 padded sequences", "longest sequence (tokens)", STEP, lambda side: side.time
    ),
    "batch_time.png": (LINES["batch"], "Training step, sequences of 512 tokens", "sequences", STEP, lambda side: side.time),
    "width_time.png": (LINES["width"], "Training step of 1,024 tokens", "width", STEP, lambda side: side.time),
    "documents_time.png": (
        LINES["documents"], "Training step of 8,192 tokens, in documents of equal lengths", "documents", STEP, lambda side: side.time
    ),
    "train_memory.png": (
        LINES["length"], "Peak memory of a training step, above the weights", "sequence length (tokens)", "peak memory (MB)",
        lambda side: None if not side.above_bytes else side.above_bytes / 1e6,
    ),
    "decode_latency.png": (
        LINES["context"], "One more token", "tokens of context before it", "time of a token (ms)",
        lambda side: None if side.per_token is None else 1e3 * side.per_token,
    ),
}  # fmt: skip


def draw(run: Run, folder: Path) -> list[Path]:
    """All drawings that the results have two points for, as PNG files in a folder."""
    written = []
    for name, (line, title, across, up, value) in DRAWINGS.items():
        lines = curves(run, line, value)
        if any(len(points) > 1 for points in lines.values()):
            exact = next((lines[name] for name in EXACT if name in lines), []) if line.overtakes else []
            figure = _figure(lines, exact, ends(run, line, value), title=f"{title}\n{_where(run, line)}", across=across, up=up)
            replace_file(folder / name, lambda file, figure=figure: figure.savefig(file, format="png", dpi=150, facecolor="white"))  # type: ignore[misc]
            written.append(folder / name)
    return written


def ends(run: Run, line: Line, value: Callable[[Side], float | None]) -> dict[str, str]:
    """Why the curve of a side ends before the others do, in a word or two."""
    lines = curves(run, line, value)
    found = {}
    for name, points in lines.items():
        last = points[-1][0]
        if last < max(length for others in lines.values() for length, _ in others):
            following = next(result for result in results_of(run, line) if line.number(result.case) > last)
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


def _figure(lines: dict[str, Points], exact: Points, reasons: dict[str, str], *, title: str, across: str, up: str) -> Any:
    from matplotlib.figure import Figure  # without pyplot, which looks for a screen

    figure = Figure(figsize=(8.6, 4.6), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, which="major")
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


def _where(run: Run, line: Line) -> str:
    machine, sizes = run.machine, _sizes(run, line)
    device = machine.get("gpu") if str(run.settings.get("device")).startswith("cuda") else machine.get("processor")
    return f"{device}, {machine.get('threads')} thread{'s' * (machine.get('threads') != 1)}, {run.settings.get('dtype')}{sizes}"


def _sizes(run: Run, line: Line) -> str:
    found = [result.case.sizes for result in results_of(run, line)]
    width = f"dim {found[0].dim}, " if len({sizes.dim for sizes in found}) == 1 else ""
    return f"; {width}depth {found[0].depth}, {found[0].heads} heads"
