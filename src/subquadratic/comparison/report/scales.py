"""Axes: from numbers to places, and which numbers are written beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

PADDING = 0.04  # of the axis, beyond the outermost numbers


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Numbers from `low` to `high` go to places from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, number: float) -> float:
        return self.start + (self.end - self.start) * self._share(number)

    def ticks(self, most: int = 6) -> list[float]:
        """Round numbers on the axis."""
        return _log_ticks(self.low, self.high, most) if self.log else _linear_ticks(self.low, self.high, most)

    def _share(self, number: float) -> float:
        low, high, at = (math.log(max(end, 1e-300)) for end in (self.low, self.high, number)) if self.log else (self.low, self.high, number)
        return (at - low) / (high - low)


def scale(numbers: Sequence[float], *, start: float, end: float, log: bool, least: float = 0.0) -> Scale:
    """An axis that holds the numbers. `least` is how far its ends are apart at least: in numbers, or as a factor of a logarithmic axis."""
    low, high = min(numbers), max(numbers)
    if log:
        low, high = math.log(low), math.log(high)
        least = math.log(max(least, 1.5))
    least = max(least, (0.0 if log else 0.02) * max(abs(low), abs(high)), 1e-12)
    missing = max(0.0, least - (high - low)) / 2
    margin = PADDING * (high - low + 2 * missing)
    low, high = low - missing - margin, high + missing + margin
    return (
        Scale(low=math.exp(low), high=math.exp(high), start=start, end=end, log=True)
        if log
        else Scale(low=low, high=high, start=start, end=end)
    )


def number_word(number: float) -> str:
    """A number beside an axis: `0.05`, `250`, `16k`, `1.5M`."""
    if number == 0:
        return "0"
    if abs(number) < 1e-3 or abs(number) >= 1e15:
        return f"{number:.0e}".replace("e-0", "e-").replace("e+", "e")
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= factor:
            return f"{number / (1e3 if letter == 'k' else factor):.3g}{letter}"
    return f"{number:,.10g}" if abs(number) >= 1000 else f"{number:.4g}"


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{step * index:.12g}") for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 5), (1, 3), (1,)):
        found = [factor * 10.0**decade for decade in decades for factor in factors if low <= factor * 10.0**decade <= high]
        if len(found) <= most:
            break
    while len(found) > most:
        found = found[::2]
    return found or [low * (high / low) ** 0.1, low * (high / low) ** 0.9]
