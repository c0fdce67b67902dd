"""What is said while a claim is measured. Nothing here needs torch."""

from __future__ import annotations

import time
from collections.abc import Callable

from .claim import Setting


class Steps:
    """Tells, now and then, how many of a known number of steps are done, and how long the rest will take at this pace.

    Args:
        setting: whose `say` hears it.
        name: of what is done; may be empty.
        total: steps, at most.
        every: seconds between two words at least.
    """

    def __init__(self, setting: Setting, name: str, total: int, *, every: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._name, self._total, self._every, self._clock = setting.say, name, total, every, clock
        self._began = clock()
        self._next = self._began + every

    def done(self, count: int, more: Callable[[], str] = lambda: "") -> None:
        """So many are done; `more` is asked only where something is said."""
        now = self._clock()
        if now < self._next:
            return
        self._next = now + self._every
        left = (now - self._began) / count * (self._total - count)
        parts = [text for text in (more(), f"{about(left)} left") if text]
        self._say(f"{self._name} step {count:,} of {self._total:,}: {', '.join(parts)}".strip())


def about(seconds: float) -> str:
    """A time for people: `8 s`, `12 min`, `2.0 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"
