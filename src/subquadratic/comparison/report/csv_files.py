"""Runs and speeds as CSV files, for a spreadsheet or a data frame: numbers as they were measured, an empty field where there is none."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from ..observed import ROUNDS
from ..results import Comparison
from ..wording import clean

RUN = ("steps", "tokens", "flops", "seconds", "value", "loss", "accuracy", "predicted", "peak_bytes", "folder", "error")


def results_csv(comparison: Comparison) -> str:
    """A row for each run, and one for each entry that was skipped."""
    head = ["entry", "source", "seed", "status", "unit", "parameters", "learning_rate", *RUN, "skipped"]
    rows: list[list[Any]] = []
    for entry in comparison.entries:
        known = [entry.parameters or None, entry.rate]
        for trial in comparison.trials:
            if trial.entry == entry.name:
                rows.append(
                    [
                        entry.name,
                        entry.source,
                        trial.seed,
                        trial.status,
                        comparison.unit,
                        *known,
                        *(getattr(trial, name) for name in RUN),
                        "",
                    ]
                )
        if entry.skipped:
            rows.append([entry.name, entry.source, None, "skipped", comparison.unit, *known, *(None for _ in RUN), entry.skipped])
    return _csv(head, rows)


def speed_csv(comparison: Comparison) -> str:
    """A row for each entry and length: median, least and most of the rounds, in seconds, and memory in bytes."""
    head = ["entry", "length", *(f"{name}_{what}" for name in ROUNDS for what in ("median", "least", "most", "rounds"))]
    rows = []
    for speed in comparison.speeds:
        times = [number for name in ROUNDS for number in _of_rounds(getattr(speed, name))]
        rows.append([speed.entry, speed.length, *times, speed.train_bytes, speed.state_bytes, speed.note])
    return _csv([*head, "train_bytes", "state_bytes", "note"], rows)


def _of_rounds(times: Sequence[float]) -> list[float | None]:
    return [median(times), min(times), max(times), len(times)] if times else [None] * 4


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for row in rows:
        writer.writerow([_cell(cell) for cell in row])
    return text.getvalue()


def _cell(cell: Any) -> Any:
    if isinstance(cell, float):
        return repr(cell) if math.isfinite(cell) else ""
    if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@"):  # a spreadsheet would compute it
        return f"'{clean(cell)}"
    return clean(cell) if isinstance(cell, str) else "" if cell is None else cell
