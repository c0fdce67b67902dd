"""Scores for people: aligned lines of at most 100 columns, and a plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..heads.files import replace_file

if TYPE_CHECKING:
    from .forecast import ForecastScore
    from .labelled import ClassScore, PairScore
    from .tally import TextScore

CLASSES_SHOWN = 12


def text_lines(score: TextScore) -> list[str]:
    """What a text score says."""
    state = "" if score.state_bytes is None else f", {size(score.state_bytes)} of state"
    lines = [f"read        {score.how}{state}"]
    rate = "" if score.bits_per_byte is None else f"{score.bits_per_byte:.4f} bits/byte, "
    lines.append(f"score       {rate}{score.bits_per_token:.4f} bits/token, {score.loss:.4f} nats/token")
    lines.append(f"            perplexity {score.perplexity:.3f}, {score.accuracy:.2%} of {score.predicted:,} tokens right")
    lines.append(f"speed       {score.tokens_per_second:,.0f} tokens/s, {score.seconds:.1f} s")
    return lines


def forecast_lines(score: ForecastScore) -> list[str]:
    """What the errors of a series' forecasts say, in the units of the data."""
    lines = [
        f"forecast    MAE {score.mae:.6g}, RMSE {score.rmse:.6g} of the next value, in the units of the data",
        f"            the last value repeated: MAE {score.last_value_mae:.6g}, RMSE {score.last_value_rmse:.6g}",
        f"            {score.count:,} forecasts, from at most {score.context - 1:,} values before",
    ]
    if score.outside > 0:
        lines.append(f"            {score.outside:.1%} of what was to be forecast lies outside the range of the training part")
    return lines


def position_lines(score: TextScore) -> list[str]:
    """The table of losses by place."""
    text = ["bits/byte"] if score.bits_per_byte is not None else []
    rows = [[_place(score), "predicted", "bits/token", *text, "right"]]
    for bucket in score.by_position:
        per_byte = ["-" if bucket.bits_per_byte is None else f"{bucket.bits_per_byte:.4f}"] if text else []
        bits = f"{bucket.loss / math.log(2):.4f}"
        rows.append([f"{bucket.start:,} to {bucket.stop - 1:,}", f"{bucket.predicted:,}", bits, *per_byte, f"{bucket.accuracy:.1%}"])
    return table(rows)


def _place(score: TextScore) -> str:
    return "place in window" if "hidden" in score.how else "tokens before"


def class_lines(score: ClassScore) -> list[str]:
    """A classifier's score: accuracy, then precision and recall of each class, then who was taken for whom."""
    lines = [f"score       {score.accuracy:.2%} of {score.rows:,} rows right, loss {score.loss:.4f} nats"]
    lines += [f"speed       {_rows(score)}", ""]
    rows = [["class", "rows", "precision", "recall"]]
    for index, label in enumerate(score.labels[:CLASSES_SHOWN]):
        rates = ["-" if rate is None else f"{rate:.1%}" for rate in score.of_class(index)]
        rows.append([shortened(label, 40), f"{sum(score.confusion[index]):,}", *rates])
    lines += table(rows)
    if len(score.labels) > CLASSES_SHOWN:
        return [*lines, f"(the first {CLASSES_SHOWN} of {len(score.labels)} classes; --out FILE has all, and the confusion matrix)"]
    width = max(4, (96 - 14) // max(len(score.labels), 1) - 2)
    head = ["true \\ taken for", *(shortened(label, width) for label in score.labels)]
    body = [[shortened(label, 16), *map(str, row)] for label, row in zip(score.labels, score.confusion, strict=True)]
    return [*lines, "", *table([head, *body])]


def pair_lines(score: PairScore) -> list[str]:
    """An encoder-decoder's score."""
    return [
        f"score       {score.accuracy:.2%} of {score.predicted:,} target tokens right, loss {score.loss:.4f} nats/token",
        f"            {score.exact:.2%} of {score.rows:,} rows right as a whole, given the true tokens before",
        f"speed       {_rows(score)}",
    ]


def _rows(score: ClassScore | PairScore) -> str:
    return f"{score.rows / max(score.seconds, 1e-9):,.0f} rows/s, {score.seconds:.1f} s"


def table(rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Rows with the first as head, in columns; the first `left` to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def shortened(text: str, width: int) -> str:
    """At most `width` characters."""
    return text if len(text) <= width else text[: max(width - 2, 1)] + ".."


def size(count: float) -> str:
    """Bytes with three digits: `512 B`, `64.3 kB`, `1.20 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":
            break
        count /= 1000
    digits = 0 if unit == "B" or count >= 99.95 else 1 if count >= 9.995 else 2
    return f"{count:,.{digits}f} {unit}"


def amount(count: float) -> str:
    """A number with three digits: `512`, `64.3 k`, `1.20 M`."""
    for unit in ("", " k", " M", " G", " T", " P"):
        if count < 999.5 or unit == " P":
            break
        count /= 1000
    digits = 0 if (unit == "" and count == round(count)) or count >= 99.95 else 1 if count >= 9.995 else 2
    return f"{count:,.{digits}f}{unit}"


def plot_positions(path: Path, score: TextScore, *, title: str, mark: str = "subquadratic") -> None:
    """Loss against the tokens before a prediction, as an SVG file, whole or not at all; `mark` is the creator that it names."""
    import matplotlib
    from matplotlib.figure import Figure  # without pyplot, which looks for a screen

    buckets = score.by_position
    rates = [bucket.bits_per_byte for bucket in buckets if bucket.bits_per_byte is not None]
    per_byte = len(rates) == len(buckets)
    values = rates if per_byte else [bucket.loss / math.log(2) for bucket in buckets]
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.plot([max(bucket.start, 8) * 2**0.5 for bucket in buckets], values, color="#1f4e79", marker="o", markersize=4, linewidth=1.5)
    axes.set_xscale("log", base=2)
    axes.set_xlabel(_place(score))
    axes.set_ylabel("bits/byte" if per_byte else "bits/token")
    axes.set_title(title, fontsize=10)
    with matplotlib.rc_context({"svg.hashsalt": "subquadratic"}):  # else names inside differ from one drawing to the next
        replace_file(path, lambda file: figure.savefig(file, format="svg", metadata={"Date": None, "Creator": mark}))
