"""How costs grow with length, batch, width and documents, and from which length on a model overtakes exact attention."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .cases import Case
from .results import Result, Run, Side

EXACT = ("x-transformers", "transformer")
LEAST = 3  # points of a slope
Points = list[tuple[int, float]]


@dataclass(frozen=True, kw_only=True)
class Line:
    """Cases that differ in one number: their names begin with `prefix`. `overtakes`: whether a model may be dearer than exact attention
    at a small number and cheaper at a large one, by design."""

    prefix: str
    number: Callable[[Case], int]
    overtakes: bool = True


LINES = {
    "length": Line(prefix="lengths/train/", number=lambda case: case.length),
    "context": Line(prefix="lengths/decode/", number=lambda case: case.length),
    "length, 8 sequences": Line(prefix="crossover/train/", number=lambda case: case.length),
    "length, 8 padded": Line(prefix="crossover/padded/", number=lambda case: case.length),
    "batch": Line(prefix="batches/train/", number=lambda case: case.batch, overtakes=False),
    "width": Line(prefix="widths/train/", number=lambda case: case.sizes.dim, overtakes=False),
    "documents": Line(prefix="documents/train/", number=lambda case: case.batch, overtakes=False),
}
OVERTAKING = {"1 sequence": "length", "8 sequences": "length, 8 sequences", "8 padded": "length, 8 padded"}


def curves(run: Run, line: Line, value: Callable[[Side], float | None] = lambda side: side.time) -> dict[str, Points]:
    """(number, value) of every side, in the order of the numbers. What was not measured has no point."""
    found: dict[str, Points] = {}
    for result in results_of(run, line):
        for side in () if result.refused else result.sides:
            measured = value(side)
            if measured is not None:
                found.setdefault(side.name, []).append((line.number(result.case), measured))
    return found


def results_of(run: Run, line: Line) -> list[Result]:
    """Those of a line, in the order of its numbers."""
    found = (result for result in run.results if result.case.name.startswith(line.prefix))
    return sorted(found, key=lambda result: line.number(result.case))


def slope(points: Sequence[tuple[int, float]]) -> float | None:
    """Of log(value) against log(number), by least squares; None for fewer than three points."""
    if len(points) < LEAST:
        return None
    logs = [(math.log(number), math.log(value)) for number, value in points]
    x, y = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    return sum((a - x) * (b - y) for a, b in logs) / sum((a - x) ** 2 for a, _ in logs)


def slopes(run: Run) -> dict[str, dict[str, float]]:
    """By what grows, and by side: the slope of a training step, or of a new token against its context."""
    found = {}
    for name, line in LINES.items():
        of_sides = {side: value for side, points in curves(run, line).items() if (value := slope(points)) is not None}
        if of_sides:
            found[name] = of_sides
    return found


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


def crossovers(run: Run) -> dict[str, dict[str, str]]:
    """By batch, and by side: the length from which on a training step is faster than our exact attention's, in words."""
    found = {}
    for name, line in OVERTAKING.items():
        lines = curves(run, LINES[line])
        exact = lines.get("transformer", [])
        if len(exact) > 1:
            found[name] = {side: _overtakes(points, exact) for side, points in lines.items() if side not in EXACT}
    return found


def _overtakes(ours: Points, exact: Points) -> str:
    cross, theirs = crossover(ours, exact), dict(exact)
    shared = [(length, value < theirs[length]) for length, value in ours if length in theirs]
    if cross is not None:
        return f"{float(f'{cross[0]:.2g}'):,.0f}"
    if not shared:
        return "not measured"
    if shared[-1][1]:
        return f"{shared[0][0]:,} or fewer"
    return f"not up to {shared[-1][0]:,}"
