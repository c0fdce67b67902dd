"""How far a run is, by steps or by the clock, and the learning rate that follows from it."""

from __future__ import annotations

import math
import time


class Schedule:
    """Progress from 0 to 1 towards `max_steps` or the end of `seconds`, whichever comes first.

    With a time budget the learning rate follows the clock, so it has come down to its end when the time is up, however
    fast the machine is and whatever else runs on it. `warmup` is a share of the run; `shape` "cosine", "linear" (which ends
    at nothing) or "constant"; `floor` the last rate of a cosine over the peak; with `apart`, `seconds` are those of training
    alone, without what was put `aside`. A run that goes on after its end has a second schedule, from `first_step` and
    `first_elapsed` seconds on.
    """

    def __init__(
        self,
        *,
        max_steps: int | None,
        seconds: float | None,
        warmup: float,
        shape: str = "cosine",
        floor: float = 0.01,
        apart: bool = False,
    ) -> None:
        if max_steps is None and seconds is None:
            raise ValueError("max_steps and seconds cannot both be None: the run would never end")
        self.max_steps, self.seconds, self.warmup, self.shape, self.floor = max_steps, seconds, warmup, shape, floor
        self.started, self.apart = time.monotonic(), apart
        self.first_step, self.first_elapsed = 0, 0.0
        self.aside = 0.0  # seconds of the elapsed time that went into validations, samples and saving

    def start(self, seconds: float | None, *, elapsed: float = 0.0, aside: float = 0.0) -> None:
        """Start the clock; `seconds` is what training itself may take, `elapsed` (of it) and `aside` what a run that goes on has had."""
        self.started, self.seconds, self.aside = time.monotonic() - elapsed, seconds, aside

    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def progress(self, step: int) -> float:
        """Share of the run that is done after `step` optimizer steps."""
        by_steps = _share(step - self.first_step, self.max_steps, self.first_step)
        by_clock = _share(self._counted() - self.first_elapsed, self.seconds, self.first_elapsed)
        return max(0.0, min(1.0, max(by_steps, by_clock)))

    def remaining(self, step: int) -> float:
        """Seconds to the end of the training, at the speed so far."""
        progress = self.progress(step)
        return (self._counted() - self.first_elapsed) * (1 - progress) / progress if progress else 0.0

    def _counted(self) -> float:
        return self.elapsed() - (self.aside if self.apart else 0.0)

    def factor(self, step: int) -> float:
        """The learning rate of the step after `step`, over its peak."""
        progress = self.progress(step)
        if progress < self.warmup:
            one_step = _share(1, self.max_steps, self.first_step)
            return max(0.01, min(1.0, (progress + one_step) / self.warmup))
        if self.shape == "constant":
            return 1.0
        share = (progress - self.warmup) / (1 - self.warmup)
        if self.shape == "linear":
            return 1.0 - share
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * share))


def _share(done: float, end: float | None, first: float) -> float:
    """Of the way from `first` to `end`, what `done` is; nothing where there is no end."""
    if end is None:
        return 0.0
    return done / (end - first) if end > first else 1.0
