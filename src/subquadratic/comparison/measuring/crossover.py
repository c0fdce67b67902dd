"""From what length on a model costs less than exact attention, and how costs grow: computed from `Speed`s alone.

Both models' costs are straight lines between measured lengths where both axes are logarithmic, and so is their ratio. Readings of a round
were taken side by side, so ratios are formed round by round; intervals come from drawing rounds again, with replacement (a bootstrap).
Lengths were measured one after another: the interval of a slope does not know of a machine that was busier at one length than at another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..results import Speed

Quantity = Literal["train_seconds", "train_bytes", "prefill_seconds", "token_seconds"]
QUANTITIES: tuple[Quantity, ...] = ("train_seconds", "train_bytes", "prefill_seconds", "token_seconds")
EXACT = "transformer"  # the entry that others are compared with
DRAWS = 2000
CONFIDENCE = 0.95
FIT = 3  # lengths, the longest ones, that a slope is of: at shorter ones what does not depend on the length matters more
ALWAYS, NEVER = -math.inf, math.inf  # crossings outside of what was measured


@dataclass(frozen=True, kw_only=True)
class Crossover:
    """Where an entry begins to cost less than the exact one, and stays so as far as both were measured.

    Attributes:
        outcome: by the medians over rounds. "at": at `length`; "always": from `first` on, or earlier; "never": not up to `last`;
            "unknown": no length was measured of both.
        length: tokens; None unless the outcome is "at".
        low, high: of an interval of 95 % for the crossing, whatever the outcome. None: it is open there, below `first` or above `last`; or
            there is only one reading (`rounds`).
        first, last: the shortest and the longest length that was measured of both; 0 where there is none.
        rounds: the fewest readings that any of these lengths has.
        gain: how many times as much the exact one costs at `last`.
    """

    entry: str
    exact: str
    quantity: Quantity
    outcome: Literal["at", "always", "never", "unknown"]
    length: float | None = None
    low: float | None = None
    high: float | None = None
    first: int = 0
    last: int = 0
    rounds: int = 0
    gain: float | None = None


@dataclass(frozen=True, kw_only=True)
class Slope:
    """How a cost grows over the longest lengths, from `first` to `last`: with the length to the power of `value`; 1 is linear, 2
    quadratic. `low` and `high` as in `Crossover`."""

    entry: str
    quantity: Quantity
    value: float
    low: float | None
    high: float | None
    first: int
    last: int


def crossover(speeds: Sequence[Speed], entry: str, *, exact: str = EXACT, quantity: Quantity = "train_seconds") -> Crossover:
    """Where `entry` overtakes `exact`. Costs are those of one sequence, so at one length their ratio is that of costs per token too."""
    own, theirs = readings(speeds, entry, quantity), readings(speeds, exact, quantity)
    lengths = sorted(own.keys() & theirs.keys())
    if not lengths:
        return Crossover(entry=entry, exact=exact, quantity=quantity, outcome="unknown")
    ratios = [log_ratios(own[length], theirs[length]) for length in lengths]
    middle = [float(np.median(values)) for values in ratios]
    place = crossing(lengths, middle)
    low, high = _interval([crossing(lengths, row) for row in _drawn(ratios)]) if _several(ratios) else (None, None)
    return Crossover(
        entry=entry,
        exact=exact,
        quantity=quantity,
        outcome="always" if place == ALWAYS else "never" if place == NEVER else "at",
        length=place if math.isfinite(place) else None,
        low=low,
        high=high,
        first=lengths[0],
        last=lengths[-1],
        rounds=min(len(values) for values in ratios),
        gain=math.exp(-middle[-1]),
    )


def crossing(lengths: Sequence[int], logs: Sequence[float] | NDArray[np.float64]) -> float:
    """The length at which log(own / exact), straight lines over the logarithm of the length, falls below 0 for good; `ALWAYS` where
    it is below everywhere, `NEVER` where it is not at the end."""
    above = [place for place, value in enumerate(logs) if value >= 0]
    if not above:
        return ALWAYS
    last = above[-1]
    if last == len(lengths) - 1:
        return NEVER
    share = logs[last] / (logs[last] - logs[last + 1])
    return float(lengths[last] * (lengths[last + 1] / lengths[last]) ** share)


def slope(speeds: Sequence[Speed], entry: str, quantity: Quantity = "train_seconds", *, fit: int = FIT) -> Slope | None:
    """The least-squares slope of log cost over log length, at the `fit` longest lengths; None where fewer than two were measured."""
    found = readings(speeds, entry, quantity)
    lengths = sorted(found)[-fit:]
    if len(lengths) < 2:
        return None
    logs = [np.log(np.asarray(found[length])) for length in lengths]
    value = _slope(lengths, [float(np.median(values)) for values in logs])
    low, high = _interval([_slope(lengths, row) for row in _drawn(logs)]) if _several(logs) else (None, None)
    return Slope(entry=entry, quantity=quantity, value=value, low=low, high=high, first=lengths[0], last=lengths[-1])


def readings(speeds: Sequence[Speed], entry: str, quantity: Quantity) -> dict[int, list[float]]:
    """What was measured of an entry, by length; positive numbers only."""
    found = {}
    for speed in speeds:
        if speed.entry == entry:
            value = getattr(speed, quantity)
            values = [] if value is None else list(value) if isinstance(value, list) else [float(value)]
            if values and min(values) > 0:
                found[speed.length] = values
    return found


def log_ratios(own: Sequence[float], theirs: Sequence[float]) -> NDArray[np.float64]:
    """log(own / theirs), round by round; of different numbers of rounds, as many as both have."""
    rounds = min(len(own), len(theirs))
    return np.log(np.asarray(own[:rounds]) / np.asarray(theirs[:rounds]))


def _several(values: Sequence[NDArray[np.float64]]) -> bool:
    return min(len(row) for row in values) > 1


def _drawn(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(draws, lengths): medians of rounds drawn with replacement, at each length by themselves; the same in every call."""
    generator = np.random.default_rng(0)
    return np.stack([np.median(generator.choice(row, (DRAWS, len(row))), axis=1) for row in values], axis=1)


def _interval(found: Sequence[float]) -> tuple[float | None, float | None]:
    """The middle `CONFIDENCE` of what was found; None for an end that is infinite."""
    ordered = sorted(found)
    rest = (1 - CONFIDENCE) / 2
    ends = ordered[math.floor(rest * (len(ordered) - 1))], ordered[math.ceil((1 - rest) * (len(ordered) - 1))]
    low, high = (end if math.isfinite(end) else None for end in ends)
    return low, high


def _slope(lengths: Sequence[int], logs: Sequence[float] | NDArray[np.float64]) -> float:
    return float(np.polyfit(np.log(lengths), logs, 1)[0])
