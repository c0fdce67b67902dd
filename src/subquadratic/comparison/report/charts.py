"""Which charts a comparison has: quality against what it costs, learning curves, and learning rates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ...benchmark.report import seconds
from ...evaluation.report import amount, size
from ..findings.choices import nearest
from ..findings.costs import at_length
from ..observed import Dot, averages, curve, exact, front, lengths, of_trials, tried
from ..results import Comparison, Point
from ..statistics import Estimate
from ..wording import duration, label, listed, reference, tokens, value
from .drawing import Chart, Line, Mark
from .scales import number_word

SAME = 1.05  # costs within this factor make no chart
BEGINNING = 0.2  # of a curve, which decides nothing of the axis of losses


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a model takes, for one axis."""

    slug: str
    name: str
    axis: str
    read: Callable[[str], float | None]
    write: Callable[[float], str]


def styles(comparison: Comparison) -> dict[str, int]:
    """The look of every entry, the same in all charts: exact attention has its own, the others by their order."""
    base = exact(comparison)
    others = [entry.name for entry in comparison.entries if entry.name != base]
    return {**({base: 0} if base else {}), **{name: index + 1 for index, name in enumerate(others)}}


def axis(comparison: Comparison) -> str:
    return f"{comparison.unit} ({'higher' if comparison.more_is_better else 'lower'} is better)"


def written(comparison: Comparison) -> Callable[[float], str]:
    return lambda number: value(number, comparison.unit, with_unit=False)


def spread_mark(x: float, y: Estimate, note: str = "") -> Mark:
    """A mean, and a spread (one sample standard deviation) to each side."""
    low, high = (None, None) if y.spread is None else (y.mean - y.spread, y.mean + y.spread)
    return Mark(x=x, y=y.mean, low=low, high=high, note=note)


def costs(comparison: Comparison) -> list[Cost]:
    """What quality can be set against."""
    decoding, training = _decoding(comparison), nearest(comparison, "train_bytes")

    def at(quantity: str, length: int) -> Callable[[str], float | None]:
        return lambda name: at_length(comparison, name, quantity, length)

    def of_runs(name: str, field: str) -> float | None:
        whole = of_trials(comparison, name, lambda trial: getattr(trial, field))
        return None if whole is None else whole.mean

    found = [
        Cost(slug="seconds", name="training time", axis="training time (s)", read=lambda name: of_runs(name, "seconds"), write=duration),
        Cost(
            slug="tokens",
            name="training tokens",
            axis=f"training {tokens(comparison)}",
            read=lambda name: of_runs(name, "tokens"),
            write=amount,
        ),
        Cost(
            slug="flops",
            name="training FLOPs",
            axis="training FLOPs",
            read=lambda name: of_runs(name, "flops"),
            write=lambda x: f"{amount(x)}FLOP",
        ),
        Cost(
            slug="parameters",
            name="parameters",
            axis="parameters",
            read=lambda name: comparison.entry(name).parameters or None,
            write=amount,
        ),
    ]
    if training is not None:
        read = at("train_bytes", training)
        what = f"memory of a training step on {training:,} tokens"
    else:
        read, what = lambda name: of_runs(name, "peak_bytes"), "peak memory of training"
    found.append(Cost(slug="memory", name=what, axis=f"{what} (bytes)", read=read, write=size))
    if decoding is not None:
        read = at("token_seconds", decoding)
        what = f"time of a decoded token after {decoding:,} tokens"
        found.append(Cost(slug="decoding", name=what, axis=f"{what} (s)", read=read, write=seconds))
    return found


def _decoding(comparison: Comparison) -> int | None:
    """The length at which a decoded token was timed of most entries; of several the longest."""
    found = lengths(comparison, "token_seconds", least=2)
    timed = {length: sum(1 for name in tried(comparison) if at_length(comparison, name, "token_seconds", length)) for length in found}
    return max(found, key=lambda length: (timed[length], length), default=None)


def lines_of(comparison: Comparison, marks: Callable[[str], list[Mark]]) -> list[Line]:
    """A line for each entry that has marks."""
    found = ((name, marks(name)) for name in tried(comparison))
    return [Line(name=label(comparison, name), style=styles(comparison)[name], marks=own) for name, own in found if own]


def pareto(comparison: Comparison) -> tuple[list[Chart], list[str]]:
    """Quality against each cost, and the costs that are within 5 % of each other for all and so have no chart."""
    found = averages(comparison)
    charts, equal = [], []
    for cost in costs(comparison):
        known = {name: number for name in found if (number := cost.read(name))}
        if len(known) < 2:
            continue
        if max(known.values()) <= SAME * min(known.values()):
            ends = list(dict.fromkeys(map(cost.write, (min(known.values()), max(known.values())))))
            equal.append(f"{cost.name} ({' to '.join(ends)})")
            continue
        best = front([(name, number, found[name].mean) for name, number in known.items()], more_is_better=comparison.more_is_better)
        lines = [
            Line(
                name=label(comparison, name),
                style=styles(comparison)[name],
                hollow=name not in best,
                marks=[spread_mark(number, found[name], "on the Pareto front" if name in best else "")],
            )
            for name, number in known.items()
        ]
        steps = sorted((known[name], found[name].mean) for name in best)
        names = listed([label(comparison, name) for name in sorted(best, key=known.__getitem__)])
        charts.append(
            Chart(
                slug=f"pareto-{cost.slug}",
                title=f"Quality against {cost.name}",
                across=cost.axis,
                up=axis(comparison),
                lines=lines,
                log_x=max(known.values()) > 3 * min(known.values()),
                scattered=True,
                front=steps if len(steps) > 1 else [],
                write_x=cost.write if cost.slug in ("memory", "decoding") else number_word,
                write_y=written(comparison),
                description=f"One point for each of {len(lines)} models; bars are one standard deviation over seeds to each side. On the "
                f"Pareto front (filled: no other is as cheap and as good) from the cheapest: {names}.",
            )
        )
    return charts, equal


def curves(comparison: Comparison) -> list[Chart]:
    """Validations during training against time, tokens and FLOPs."""
    axes: tuple[tuple[str, str, str, Callable[[Point], float], Callable[[float], str]], ...] = (
        ("seconds", "training time", "training time (s)", lambda point: point.seconds, number_word),
        ("tokens", "tokens", f"training {tokens(comparison)}", lambda point: point.tokens, number_word),
        ("flops", "FLOPs", "training FLOPs", lambda point: point.flops, number_word),
    )
    charts = []
    for slug, name, across, read, write in axes:
        found = {entry: dots for entry in tried(comparison) if (dots := curve(comparison, entry, read))}
        if not found:
            continue
        lines = [
            Line(name=label(comparison, entry), style=styles(comparison)[entry], marks=[spread_mark(dot.x, dot.y) for dot in dots])
            for entry, dots in found.items()
        ]
        ends = listed(
            [f"{label(comparison, entry)} {value(dots[-1].y.mean, comparison.unit, with_unit=False)}" for entry, dots in found.items()]
        )
        charts.append(
            Chart(
                slug=f"curve-{slug}",
                title=f"Validation against {name}",
                across=across,
                up=axis(comparison),
                lines=lines,
                references=_references(comparison),
                focus=_focus(found.values()),
                write_x=write,
                write_y=written(comparison),
                description="Means over seeds, with a band of one standard deviation to each side; values beyond the axis are left out. "
                f"At the end: {ends}.",
            )
        )
    return charts


def rates(comparison: Comparison) -> Chart | None:
    """The search for a learning rate."""

    def marks(name: str) -> list[Mark]:
        entry = comparison.entry(name)
        return [
            Mark(x=rate.rate, y=rate.score, note="chosen" if rate.rate == entry.rate else "")
            for rate in sorted(entry.rates, key=lambda rate: rate.rate)
            if rate.score is not None and rate.score == rate.score
        ]

    lines = lines_of(comparison, marks)
    if not any(len(line.marks) > 1 for line in lines):
        return None
    return Chart(
        slug="learning-rates",
        title="Training loss at the end of a short trial, by learning rate",
        across="learning rate",
        up="nats per prediction (lower is better)",
        lines=lines,
        log_x=True,
        ticks=sorted({mark.x for line in lines for mark in line.marks})[:7],
        description="Each point is a trial; rates that diverged have no point, and are in the table.",
    )


def _references(comparison: Comparison) -> dict[str, float]:
    found = comparison.data.get("references") or {}
    return {reference(str(name)): number for name, number in found.items() if isinstance(number, int | float)}


def _focus(lines: Iterable[Sequence[Dot]]) -> list[float]:
    """The values after the beginning, which decide the axis."""
    later = [dot for dots in lines for dot in dots if dot.x >= BEGINNING * dots[-1].x]
    return [dot.y.mean + side * (dot.y.spread or 0.0) for dot in later for side in (-1, 1)]
