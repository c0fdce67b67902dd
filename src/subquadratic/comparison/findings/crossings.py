"""From what length on each entry costs less than exact attention (its efficiency length), in words, as far as the rounds decide it."""

from __future__ import annotations

import dataclasses
import itertools
from typing import cast

from ..measuring.crossover import FIT, Quantity, slope
from ..observed import BYTES, ROUNDS, measured, speeds
from ..results import Comparison
from ..wording import label, listed, sentence
from .standings import Side, Standing, standings

QUANTITIES = {
    "train_seconds": "training time",
    "train_bytes": "training memory",
    "prefill_seconds": "time to read a prompt",
    "token_seconds": "time of a decoded token",
    "state_bytes": "memory of the state",
}
UNDECIDED, APART = "undecided", "measured apart"
VERBS: dict[Side, str] = {"less": "costs less than", "more": "costs more than", "as much": "costs about as much as"}


def crossings(comparison: Comparison) -> list[Standing]:
    """How every entry stands to exact attention, by quantity."""
    return standings(comparison, tuple(QUANTITIES))


def growth(comparison: Comparison, name: str, quantity: str) -> float | None:
    """With which power of the length a cost of an entry grows, at the three longest lengths, by the medians of its rounds; None where fewer
    were measured."""
    middle = [
        dataclasses.replace(speed, **{quantity: [number] if quantity in ROUNDS else number})  # type: ignore[arg-type]
        for speed in speeds(comparison, name)
        if (number := measured(speed, quantity)) is not None
    ]
    if len({speed.length for speed in middle}) < FIT:
        return None
    found = slope(middle, name, cast(Quantity, quantity))
    return None if found is None else found.value


def in_words(found: Standing) -> str:
    """`from 1,500 tokens on (1,200 to 1,900)`, `less at every length`, `less at 512 and more at 1,024 tokens`, `measured apart`, or
    `undecided`: where the rounds leave open what it costs at the longest length, and for a time that was measured once."""
    if found.all is not None:
        return f"{found.all} at {_everywhere(found)}"
    where = _from_on(found)
    if where is not None:
        return where
    if found.apart:
        return APART
    if "open" not in found.sides.values():
        return _each(found)
    return UNDECIDED


def overtakes(comparison: Comparison, found: list[Standing]) -> dict[str, str]:
    """A sentence or more for each entry."""
    lines = {}
    for name in dict.fromkeys(each.entry for each in found):
        own = [each for each in found if each.entry == name]
        said = []
        if from_on := [each for each in own if each.all is None and _from_on(each) is not None]:
            parts = [f"in {QUANTITIES[each.quantity]} {_from_on(each)}" for each in from_on]
            said.append(f"{label(comparison, name)} overtakes exact attention {listed(parts)}")
        for side, verb in VERBS.items():
            for lengths, same in itertools.groupby([each for each in own if each.all == side], key=_everywhere):
                what = listed([QUANTITIES[each.quantity] for each in same])
                said.append(f"{'it' if said else label(comparison, name)} {verb} exact attention in {what} at {lengths}")
        for each in own:
            if each not in from_on and each.all is None and not each.apart and "open" not in each.sides.values():
                who = "it" if said else label(comparison, name)
                said.append(f"in {QUANTITIES[each.quantity]} {who} costs {_each(each)}, compared with exact attention")
        if said:
            lines[name] = " ".join(map(sentence, said))
    return lines


def _from_on(found: Standing) -> str | None:
    """From what length on it costs less at all that were measured, and did not at a shorter one: the crossing between two lengths where its
    interval is closed, else the shortest of these lengths."""
    start, crossing = found.start, found.crossing
    if start is None or found.all is not None or found.apart:
        return None
    before = [side for length, side in found.sides.items() if length < start]
    latest = crossing.high if crossing.high is not None else crossing.length
    if crossing.outcome == "at" and crossing.length is not None and latest is not None and _cheaper_from(found, latest):
        length = f"from {_round(crossing.length):,} tokens on"
        if found.quantity in BYTES and crossing.rounds < 2:
            return length
        if crossing.high is not None:
            least = "" if crossing.low is None else f"{_round(crossing.low):,} to "
            return f"{length} ({least or 'at most '}{_round(crossing.high):,})"
    return f"from {start:,} tokens on{' at the latest' if before[-1] == 'open' else ''}"


def _cheaper_from(found: Standing, length: float) -> bool:
    """Whether at each measured length from this one on it costs less, or the rounds at least leave it open."""
    return all(side in ("less", "open") for at, side in found.sides.items() if at >= _round(length))


def _everywhere(found: Standing) -> str:
    lengths = list(found.sides)
    if len(lengths) == 1:
        return f"the only length measured ({lengths[0]:,} tokens)"
    return f"every length measured ({lengths[0]:,} to {lengths[-1]:,} tokens)"


def _each(found: Standing) -> str:
    """`less at 512 and more at 1,024 to 4,096 tokens`."""
    parts = []
    for side, group in itertools.groupby(found.sides.items(), key=lambda item: item[1]):
        lengths = [length for length, _ in group]
        at = f"{lengths[0]:,}" if len(lengths) == 1 else f"{lengths[0]:,} to {lengths[-1]:,}"
        parts.append(f"{'about as much' if side == 'as much' else side} at {at}")
    return f"{listed(parts)} tokens"


def _round(length: float) -> int:
    """Two digits: a length between two that were measured is not known better."""
    digits = len(str(int(length))) - 2
    return int(round(length, -digits)) if digits > 0 else round(length)
