"""What an entry costs beside exact attention at each length that was measured of both: less, more, as much, or undecided."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal, cast

from ..measuring.crossover import Crossover, Quantity, crossover
from ..observed import BYTES, exact, lengths, measured, rounds, speeds, tried
from ..results import Comparison
from ..statistics import between, differences

NEAR = 0.02  # costs that differ by less are called equal
Side = Literal["less", "more", "as much", "open"]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """`sides` by length, from the shortest; "open" where rounds do not decide it, or there is one, or the two were measured apart.
    `apart`: whether the two were timed in different sessions, so that rounds cannot be compared one by one."""

    entry: str
    quantity: str
    sides: dict[int, Side]
    crossing: Crossover
    apart: bool = False

    @property
    def all(self) -> Side | None:
        """The side at every length, where it is the same everywhere and decided."""
        found = set(self.sides.values())
        return next(iter(found)) if len(found) == 1 and "open" not in found else None

    @property
    def start(self) -> int | None:
        """The shortest of the lengths from which on it costs less at every one."""
        tail = list(itertools.takewhile(lambda length: self.sides[length] == "less", reversed(self.sides)))
        return tail[-1] if tail else None


def standings(comparison: Comparison, quantities: tuple[str, ...]) -> list[Standing]:
    """Of every entry and quantity that was measured of it and of exact attention at some length."""
    base = exact(comparison)
    found = (
        _standing(comparison, name, base, quantity)
        for name in tried(comparison)
        if base is not None and name != base
        for quantity in quantities
    )
    return [each for each in found if each is not None]


def _standing(comparison: Comparison, name: str, base: str, quantity: str) -> Standing | None:
    crossing = crossover(comparison.speeds, name, exact=base, quantity=cast(Quantity, quantity))
    if crossing.outcome == "unknown":
        return None
    if quantity in BYTES:
        own, theirs = _bytes(comparison, name, quantity), _bytes(comparison, base, quantity)
        sides: dict[int, Side] = {length: _of_bytes(own[length], theirs[length]) for length in sorted(own.keys() & theirs.keys())}
        return Standing(entry=name, quantity=quantity, sides=sides, crossing=crossing)
    sides, apart = {}, False
    for length in lengths(comparison, quantity, least=2):
        times = {key: found for key, found in rounds(comparison, quantity, length).items() if key in (name, base)}
        if len(times) == 2:
            pair = between(differences(times), name, base)
            apart |= pair is None
            if pair is None or pair.low is None or pair.high is None:
                sides[length] = "open"
            else:
                sides[length] = "as much" if pair.within(NEAR) else "less" if pair.high < 0 else "more" if pair.low > 0 else "open"
    return Standing(entry=name, quantity=quantity, sides=sides, crossing=crossing, apart=apart) if sides else None


def _bytes(comparison: Comparison, name: str, quantity: str) -> dict[int, float]:
    return {speed.length: number for speed in speeds(comparison, name) if (number := measured(speed, quantity))}


def _of_bytes(own: float, theirs: float) -> Side:
    return "less" if own < (1 - NEAR) * theirs else "more" if own > (1 + NEAR) * theirs else "as much"
