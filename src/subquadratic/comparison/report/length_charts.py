"""Charts along the sequence: loss by position, loss with the context cut, time and memory against length."""

from __future__ import annotations

import math
from collections.abc import Callable

from ...benchmark.report import seconds
from ...evaluation.report import size
from ..findings.context import common, counts_note, losses, masked, positions_note
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
        across="position of the prediction in the window" if masked(comparison) else "position of the prediction (tokens before it)",
        up=axis(comparison),
        lines=lines,
        log_x=True,
        write_x=_whole,
        write_y=written(comparison),
        description="Means over seeds, with a band of one standard deviation to each side."
        + ("" if masked(comparison) else " A line that goes on improving to the right belongs to a model that uses what is far back."),
        note=positions_note(comparison),
    )


def cuts(comparison: Comparison) -> Chart | None:
    """The same predictions from less context."""

    alike = common(comparison)

    def marks(name: str) -> list[Mark]:
        if not alike:  # heights would be those of different tokens: how much worse than the whole window, each by itself
            lost = losses(comparison, name)
            found = {context: spread_mark(context, loss) for context, loss in lost.items()}
            whole = [Mark(x=max(by_context(comparison, name)), y=0.0)] if lost else []
            return [*found.values(), *whole]
        values = by_context(comparison, name)
        return [spread_mark(context, mean) for context, by_seed in values.items() if (mean := estimate(by_seed.values())) is not None]

    lines = lines_of(comparison, marks)
    if not any(len(line.marks) > 1 for line in lines):
        return None
    less = "less accuracy" if comparison.more_is_better else f"{comparison.unit} more"
    beside = "the nearest tokens that were left, half of them on either side" if masked(comparison) else "tokens of context that were left"
    return Chart(
        slug="context",
        title="The same predictions with the context cut" if alike else "How much worse with the context cut",
        across=beside,
        up=axis(comparison) if alike else f"{less} than with the whole window",
        lines=lines,
        log_x=True,
        ticks=_ticks([mark.x for line in lines for mark in line.marks]),
        write_x=_whole,
        write_y=written(comparison),
        description="Means over seeds, with a band of one standard deviation to each side. Where a line is flat, more context does not "
        "help the model.",
        note=counts_note(comparison),
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
