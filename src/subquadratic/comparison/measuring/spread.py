"""An order in which to measure parts of a text, so that any number of them stands for all of it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator


def evenly_spread(count: int) -> Iterator[int]:
    """0 to count - 1, each once, in an order of which every beginning is spread evenly: the bits of each number reversed."""
    bits = max(count - 1, 0).bit_length()
    places = (int(f"{number:0{bits}b}"[::-1], 2) if bits else 0 for number in range(1 << bits))
    return (place for place in places if place < count)


def groups_until(deadline: float | None, *, count: int, most: int, size: int) -> Iterator[list[int]]:
    """Lists of `size` places of `count`, evenly spread: `most` places in all, and no further list after `deadline`, a time of
    `time.monotonic`. The first list comes in any case."""
    places = itertools.islice(evenly_spread(count), most)
    while group := list(itertools.islice(places, size)):
        yield group
        if deadline is not None and time.monotonic() >= deadline:
            return
