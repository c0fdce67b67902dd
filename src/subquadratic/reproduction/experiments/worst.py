"""The worst of several numbers. None of them is passed over because it is NaN, as `max` does."""

from __future__ import annotations

import math
from collections.abc import Iterable


def largest(values: Iterable[float]) -> float:
    """NaN, if one is."""
    found = list(values)
    return math.nan if any(map(math.isnan, found)) else max(found)


def furthest(values: Iterable[float], point: float) -> float:
    """The one furthest from a point; NaN, if one is."""
    found = list(values)
    return math.nan if any(map(math.isnan, found)) else max(found, key=lambda value: abs(value - point))
