"""Charts along the sequence: loss by position, loss with the context cut, time and memory against length."""

from __future__ import annotations

import math
from collections.abc import Callable

from ...benchmark.report import seconds
from ...evaluation.report import size
from ..findings.crossings import growth
from ..observed import BYTES, ROUNDS, by_context, by_position, measured, speeds, tried
from ..results import Comparison, Speed
from ..statistics import estimate
from ..wording import label, listed
from .charts import axis, lines_of, spread_mark, styles, written
from .drawing import Chart, Line, Mark

TITLES = {
    "train_seconds": ("Time of a training step", "time (s)"),
    "train_bytes": ("Memory of a training step, above the weights", "bytes"),
    "prefill_seconds": ("Time to read a prompt", "time (s)"),
    "token_seconds": ("Time of one more token", "time (s)"),
    "state_bytes": ("Memory of the state while decoding", "bytes"),
}


def positions(comparison: Comparison) -> Chart | None:
    """Does a prediction gain from more tokens before it?"""

    def marks(name: str) -> list[Mark]:
        return [
            spread_mark(math.sqrt(max(start, 1) * max(stop - 1, 1)), whole, note=f"{start:,} to {stop - 1:,}")
            for start, stop, whole in by_position(comparison, name)
        ]

    lines = lines_of(comparison, marks)
    if not any(len(line.marks) > 1 for line in lines):
        return None
    return Chart(
        slug="positions",
        title="Score by position in the window",
        across="position of the prediction (tokens before it)",
        up=axis(comparison),
        lines=lines,
        log_x=True,
        write_x=_whole,
        write_y=written(comparison),
        description="Means over seeds, with a band of one standard deviation to each side. A line that goes on improving to the right "
        "belongs to a model that uses what is far back.",
    )


def cuts(comparison: Comparison) -> Chart | None:
    """The same predictions from less context."""

    def marks(name: str) -> list[Mark]:
        found = by_context(comparison, name)
        return [spread_mark(context, whole) for context, by_seed in found.items() if (whole := estimate(by_seed.values())) is not None]

    lines = lines_of(comparison, marks)
    if not any(len(line.marks) > 1 for line in lines):
        return None
    return Chart(
        slug="context",
        title="The same predictions with the context cut",
        across="tokens of context that were left",
        up=axis(comparison),
        lines=lines,
        log_x=True,
        ticks=_ticks([mark.x for line in lines for mark in line.marks]),
        write_x=_whole,
        write_y=written(comparison),
        description="Means over seeds, with a band of one standard deviation to each side. Where a line is flat, more context does not "
        "help the model.",
    )


def against_length(comparison: Comparison) -> list[Chart]:
    """Time and memory, on logarithmic axes: the slope is the power of the length with which they grow."""
    charts = []
    for quantity in ("train_seconds", "train_bytes", "prefill_seconds", "token_seconds", "state_bytes"):
        title, up = TITLES[quantity]
        lines = [line for name in tried(comparison) if (line := _growth(comparison, name, quantity)) is not None]
        if not any(len(line.marks) > 1 for line in lines):
            continue
        write: Callable[[float], str] = size if quantity in BYTES else seconds
        powers = listed([f"{line.name}{line.more}" for line in lines if line.more])
        bars = "; bands go from the fastest to the slowest round" if quantity in ROUNDS else ""
        charts.append(
            Chart(
                slug=f"length-{quantity.replace('_', '-')}",
                title=title,
                across="tokens of context before it" if quantity in ("token_seconds", "state_bytes") else "length (tokens)",
                up=f"{up}, lower is better",
                lines=lines,
                log_x=True,
                log_y=True,
                ticks=_ticks([mark.x for line in lines for mark in line.marks]),
                write_x=_whole,
                write_y=write,
                description=f"One sequence, both axes logarithmic{bars}. Growth at the longer lengths, as a power of the length n: "
                f"{powers or 'not known'}.",
            )
        )
    return charts


def _growth(comparison: Comparison, name: str, quantity: str) -> Line | None:
    marks = [_mark(speed, quantity) for speed in speeds(comparison, name) if measured(speed, quantity)]
    if not marks:
        return None
    power = growth(comparison, name, quantity)
    more = "" if power is None else f" n^{0.0 if abs(power) < 0.05 else power:.1f}"
    return Line(name=label(comparison, name), style=styles(comparison)[name], marks=marks, more=more)


def _mark(speed: Speed, quantity: str) -> Mark:
    number = measured(speed, quantity)
    assert number is not None
    rounds = getattr(speed, quantity)
    several = isinstance(rounds, list) and len(rounds) > 1
    return Mark(x=speed.length, y=number, low=min(rounds) if several else None, high=max(rounds) if several else None)


def _ticks(numbers: list[float]) -> list[float]:
    """The lengths measured, not more than fit beside each other."""
    found = sorted(set(numbers))
    while len(found) > 7:
        found = found[::-1][::2][::-1]
    return found


def _whole(number: float) -> str:
    return f"{number:,.0f}"
