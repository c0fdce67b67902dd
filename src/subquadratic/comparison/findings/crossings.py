"""From what length on each entry costs less than exact attention (its efficiency length), in words, as far as the rounds decide it."""

from __future__ import annotations

import dataclasses
import itertools
from typing import cast

from ..measuring.crossover import Crossover, Quantity, crossover, slope
from ..observed import BYTES, ROUNDS, exact, measured, speeds, tried
from ..results import Comparison
from ..wording import label, listed, sentence

EVERYWHERE, NOWHERE = "at every length measured", "nowhere"
QUANTITIES = {
    "train_seconds": "training time",
    "train_bytes": "training memory",
    "prefill_seconds": "time to read a prompt",
    "token_seconds": "time of a decoded token",
    "state_bytes": "memory of the state",
}


def crossings(comparison: Comparison) -> list[Crossover]:
    """Of every entry and quantity that was measured of it and of exact attention at some length."""
    base = exact(comparison)
    others = [] if base is None else [name for name in tried(comparison) if name != base]
    found = (crossover(comparison.speeds, name, exact=base or "", quantity=cast(Quantity, what)) for name in others for what in QUANTITIES)
    return [each for each in found if each.outcome != "unknown"]


def growth(comparison: Comparison, name: str, quantity: str) -> float | None:
    """With which power of the length a cost of an entry grows, at the longest lengths, by the medians of its rounds."""
    middle = [
        dataclasses.replace(speed, **{quantity: [number] if quantity in ROUNDS else number})  # type: ignore[arg-type]
        for speed in speeds(comparison, name)
        if (number := measured(speed, quantity)) is not None
    ]
    found = slope(middle, name, cast(Quantity, quantity))
    return None if found is None else found.value


def in_words(found: Crossover) -> str:
    """`from 1,500 tokens on (1,200 to 1,900)`, `at every length measured`, `nowhere`, or `undecided`: where the interval leaves open
    whether it is cheaper at the longest length, and for a time that was measured once."""
    if found.rounds < 2 and found.quantity not in BYTES:
        return "undecided"
    if found.outcome == "never":
        return NOWHERE if found.low is None else "undecided"
    if found.outcome == "always":
        return EVERYWHERE if found.high is None else f"from {_round(found.high):,} tokens on at the latest"
    assert found.length is not None
    length = f"from {_round(found.length):,} tokens on"
    if found.quantity in BYTES and found.rounds < 2:
        return length
    if found.high is None:
        return "undecided"
    least = "" if found.low is None else f"{_round(found.low):,} to "
    return f"{length} ({least or 'at most '}{_round(found.high):,})"


def overtakes(comparison: Comparison, found: list[Crossover]) -> dict[str, str]:
    """A sentence or more for each entry."""
    lines = {}
    for name in dict.fromkeys(each.entry for each in found):
        own = [(QUANTITIES[each.quantity], in_words(each), each.first == each.last) for each in found if each.entry == name]
        from_on = [f"in {what} {where}" for what, where, _ in own if where.startswith("from")]
        said = [f"{label(comparison, name)} overtakes exact attention {listed(from_on)}"] if from_on else []
        for outcome, alone in itertools.product((EVERYWHERE, NOWHERE), (False, True)):
            if same := [what for what, where, only in own if (where, only) == (outcome, alone)]:
                verb = "costs less" if outcome == EVERYWHERE else "does not cost less"
                where = "the only length" if alone else "every length" if outcome == EVERYWHERE else "any length"
                who = "it" if said else label(comparison, name)
                said.append(f"{who} {verb} than exact attention at {where} measured, in {listed(same)}")
        if said:
            lines[name] = " ".join(map(sentence, said))
    return lines


def _round(length: float) -> int:
    """Two digits: a length between two that were measured is not known better."""
    digits = len(str(int(length))) - 2
    return int(round(length, -digits)) if digits > 0 else round(length)
