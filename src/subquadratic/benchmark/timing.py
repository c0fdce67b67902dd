"""Interleaved timing: every side once a round, so that other load on the machine affects all of them alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

SHORT, LONG = 0.05, 30.0  # seconds: a reading takes at least the first; a first call over the second counts as a round
MOST_CALLS = 200  # in one reading


@dataclass
class Readings:
    """Seconds of one call, a number per round and side; and why a side has none."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)


def interleave(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    least: int = 3,
    budget: float = 20.0,
    cap: float | Mapping[str, float] = 60.0,
    clock: Callable[[], float] = time.perf_counter,
    synchronize: Callable[[], object] = lambda: None,
) -> Readings:
    """Time several sides round by round.

    Every side is called once to warm up: it touches its memory for the first time, which makes a step of ten seconds a
    quarter longer. A first call that takes over half a minute is a reading already. Then in each round each side is called,
    so often that a reading takes a twentieth of a second at least. Rounds begin with another side each, so that none is
    always the one after a certain other.

    Args:
        calls: by the side's name.
        rounds: the most.
        least: so many are run in any case.
        budget: seconds, warm-up included, after which no further round begins.
        cap: a side whose call takes longer, or that raises, is dropped, and the reason kept; one for all, or one for each.
        clock, synchronize: of the device.
    """
    found, times = Readings(), {}
    began = clock()
    for name, call in calls.items():
        try:
            times[name] = _reading(call, 1, clock, synchronize)
        except Exception as error:  # of someone else's code: the others are measured all the same
            found.dropped[name] = f"failed: {reason(error)}"
            continue
        limit = cap if isinstance(cap, int | float) else cap[name]
        if times[name] > limit:
            found.dropped[name] = f"one call takes {times[name]:.0f} s, more than {limit:.0f} s"
        else:
            found.seconds[name] = [times[name]] if times[name] > LONG else []
    names = list(found.seconds)
    counts = {name: max(1, min(MOST_CALLS, round(SHORT / max(times[name], 1e-9)))) for name in names}
    done = 0
    while names and done < rounds and (done < least or clock() - began < budget):
        gc.collect()  # not in the middle of a reading
        for name in names[done % len(names) :] + names[: done % len(names)]:
            if len(found.seconds[name]) <= done:
                found.seconds[name].append(_reading(calls[name], counts[name], clock, synchronize))
        done += 1
    return found


def ratios(ours: list[float], theirs: list[float]) -> list[float]:
    """How many times as long the other took, round by round."""
    return [other / own for own, other in zip(ours, theirs, strict=False)]


def median(values: list[float]) -> float:
    """The middle one, or the mean of the two in the middle.

    Raises:
        ValueError: there are none.
    """
    return statistics.median(values)


def reason(error: Exception) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text[:200]}"


def _reading(call: Callable[[], object], count: int, clock: Callable[[], float], synchronize: Callable[[], object]) -> float:
    synchronize()
    began = clock()
    for _ in range(count):
        call()
    synchronize()
    return (clock() - began) / count
