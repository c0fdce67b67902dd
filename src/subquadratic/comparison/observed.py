"""What a comparison holds, put together for statistics and pictures: scores by seed, curves, losses by position, speeds by length."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from .results import Comparison, Point, Speed, Trial
from .statistics import Difference, Estimate, Sampling, Scores, differences, estimate
from .wording import is_exact

GRID = 60  # places along a curve at which runs are averaged
ROUNDS = ("train_seconds", "prefill_seconds", "token_seconds")
SESSION = 1_000_000  # more rounds than any session has
BYTES = ("train_bytes", "state_bytes")


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One place of a line: x and the mean over seeds with its spread."""

    x: float
    y: Estimate


def exact(comparison: Comparison) -> str | None:
    """The name of the entry that the others are measured against; None where there is none."""
    return next((entry.name for entry in comparison.entries if is_exact(entry)), None)


def tried(comparison: Comparison) -> list[str]:
    """Entries that were not skipped."""
    return [entry.name for entry in comparison.entries if not entry.skipped]


def scored(trial: Trial) -> bool:
    """Whether a run ended with a score that is a number."""
    return trial.status == "done" and trial.value is not None and math.isfinite(trial.value)


def why_failed(trial: Trial) -> str:
    """Of a run without a score; nothing for one that waits or is done."""
    if trial.status == "failed":
        return trial.error or "no error was recorded"
    return "its score is no finite number" if trial.status == "done" and not scored(trial) else ""


def scores(comparison: Comparison) -> dict[str, dict[int, float]]:
    """By entry and seed, of the runs that ended with a number; entries without any are left out."""
    found = {
        name: {trial.seed: trial.value for trial in comparison.done(name) if scored(trial) and trial.value is not None}
        for name in tried(comparison)
    }
    return {name: by_seed for name, by_seed in found.items() if by_seed}


def rows_of(comparison: Comparison, trial: Trial) -> int:
    """Rows or windows that a run was scored on, as far as it is known; else predictions, of which a row has one at least."""
    items = (comparison.settings.get("conditions") or {}).get("items")
    return min(trial.predicted, items) if isinstance(items, int) and items > 0 else trial.predicted


def sampling(comparison: Comparison) -> dict[str, Sampling]:
    """By entry, how much an accuracy would vary with other rows of the same kind: binomially, with two rows right and two wrong added
    (Agresti and Coull 1998), so that a model that is right on all rows is not thought certain. Of losses it is not known: a run keeps
    none of single rows."""
    found: dict[str, Sampling] = {}
    for name, by_seed in scores(comparison).items() if comparison.more_is_better else ():
        rows = min(rows_of(comparison, trial) for trial in comparison.done(name) if scored(trial))
        if rows > 1:
            right = (rows * sum(by_seed.values()) / len(by_seed) + 2) / (rows + 4)
            found[name] = Sampling(variance=right * (1 - right) / (rows + 4), rows=rows)
    return found


def compared(comparison: Comparison) -> list[Difference]:
    """The differences of all pairs of entries in score, over seeds and, where that is known, rows."""
    return differences(scores(comparison), sampling(comparison))


def averages(comparison: Comparison) -> dict[str, Estimate]:
    """By entry: its mean score, with an interval over seeds and, where that is known, rows."""
    rows = sampling(comparison)
    return {
        name: whole
        for name, by_seed in scores(comparison).items()
        if (whole := estimate(by_seed.values(), sampling=rows.get(name))) is not None
    }


def ranked(comparison: Comparison, found: Scores) -> list[str]:
    """Entries from the best mean to the worst."""
    sign = -1 if comparison.more_is_better else 1
    means = {name: whole.mean for name, by_seed in found.items() if (whole := estimate(by_seed.values())) is not None}
    return sorted(means, key=lambda name: sign * means[name])


def of_trials(comparison: Comparison, name: str, read: Callable[[Trial], float | None]) -> Estimate | None:
    """Mean and spread of something over an entry's finished runs."""
    return estimate(read(trial) for trial in comparison.done(name) if scored(trial))


def curve(comparison: Comparison, name: str, read: Callable[[Point], float]) -> list[Dot]:
    """An entry's validations against `read` (time, tokens, FLOPs), averaged over seeds where all its runs have been.

    Between its validations a run is on a straight line.
    """
    runs = [_line(trial.curve, read) for trial in comparison.trials if trial.entry == name and trial.status == "done"]
    runs = [run for run in runs if len(run) > 1]
    if not runs:
        return []
    low, high = max(run[0][0] for run in runs), min(run[-1][0] for run in runs)
    if not low < high:
        return []
    places = sorted({x for run in runs for x, _ in run if low <= x <= high} | {low, high})
    if len(places) > GRID:
        places = [
            low * (high / low) ** (index / (GRID - 1)) if low > 0 else low + (high - low) * index / (GRID - 1) for index in range(GRID)
        ]
    return [_dot(x, (interpolated(run, x) for run in runs)) for x in places]


def interpolated(line: Sequence[tuple[float, float]], x: float) -> float:
    """On straight lines between points; what lies beyond has the value of the end."""
    place = bisect.bisect_left([at for at, _ in line], x)
    if place == 0 or place == len(line):
        return line[min(place, len(line) - 1)][1]
    (left, a), (right, b) = line[place - 1], line[place]
    return b if right == left else a + (b - a) * (x - left) / (right - left)


def by_position(comparison: Comparison, name: str) -> list[tuple[int, int, Estimate]]:
    """(start, stop, value) along the window, over seeds."""
    found: dict[tuple[int, int], list[float]] = {}
    for trial in comparison.done(name):
        for span in trial.positions:
            if math.isfinite(span.value):
                found.setdefault((span.start, span.stop), []).append(span.value)
    return [(*place, whole) for place, values in sorted(found.items()) if (whole := estimate(values)) is not None]


def by_context(comparison: Comparison, name: str) -> dict[int, dict[int, float]]:
    """By how much context there was, then by seed."""
    found: dict[int, dict[int, float]] = {}
    for trial in comparison.done(name):
        for cut in trial.cuts:
            if math.isfinite(cut.value):
                found.setdefault(cut.context, {})[trial.seed] = cut.value
    return dict(sorted(found.items()))


def speeds(comparison: Comparison, name: str) -> list[Speed]:
    """Of an entry, from the shortest length to the longest."""
    return sorted((speed for speed in comparison.speeds if speed.entry == name), key=lambda speed: speed.length)


def rounds(comparison: Comparison, quantity: str, length: int) -> dict[str, dict[int, float]]:
    """Logarithms of times at one length, by entry and round: rounds are interleaved, so that they are compared in pairs. Those of another
    session have other numbers: they have nothing in common."""
    found = {}
    for speed, session in zip(comparison.speeds, sessions(comparison), strict=True):
        times = getattr(speed, quantity)
        if speed.length == length and times and all(math.isfinite(second) and second > 0 for second in times):
            found[speed.entry] = {session * SESSION + index: math.log(second) for index, second in enumerate(times)}
    return {name: found[name] for name in tried(comparison) if name in found}


def sessions(comparison: Comparison) -> list[int]:
    """In which session each of `Comparison.speeds` was measured. One goes from short lengths to long ones, which tells sessions of files
    apart that do not name them."""
    found: list[int] = []
    last, session = None, 0
    for speed in comparison.speeds:
        if last is not None and (speed.length < last.length or speed.session != last.session):
            session += 1
        found.append(session)
        last = speed
    return found


def lengths(comparison: Comparison, quantity: str, *, least: int = 1) -> list[int]:
    """At which something was measured of at least so many entries."""
    found: dict[int, set[str]] = {}
    for speed in comparison.speeds:
        if measured(speed, quantity) is not None:
            found.setdefault(speed.length, set()).add(speed.entry)
    return sorted(length for length, names in found.items() if len(names) >= least)


def measured(speed: Speed, quantity: str) -> float | None:
    """One number: the median of rounds, or bytes; None where it was not measured."""
    found = getattr(speed, quantity)
    if isinstance(found, list):
        return median(found) if found else None
    return found


def front(points: Sequence[tuple[str, float, float]], *, more_is_better: bool) -> set[str]:
    """Of (name, cost, value) those to which no other is as cheap and as good: the Pareto front."""
    sign = -1 if more_is_better else 1
    places = {name: (cost, sign * value) for name, cost, value in points}
    return {
        name
        for name, (cost, value) in places.items()
        if not any(c <= cost and v <= value and (c, v) != (cost, value) for c, v in places.values())
    }


def _line(points: Sequence[Point], read: Callable[[Point], float]) -> list[tuple[float, float]]:
    found = [(read(point), point.value) for point in points if math.isfinite(point.value)]
    return sorted(dict(found).items())


def _dot(x: float, values: Iterable[float]) -> Dot:
    whole = estimate(values)
    assert whole is not None  # interpolated between finite values
    return Dot(x=x, y=whole)
