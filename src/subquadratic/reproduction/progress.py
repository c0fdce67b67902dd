"""What is said while a claim is measured. Nothing here needs torch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from .claim import Setting

STEADY = 3  # steps, of which the first is slower than others


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
        left = f", {about((now - self._began) / count * (self._total - count))} left" if count >= STEADY else ""
        self._say(": ".join(filter(None, (f"{self._name} step {count:,} of {self._total:,}{left}".strip(), more()))))


class Voice:
    """Says what goes on in a claim that takes long, with the time it has taken: never nothing for more than `every` seconds.

    Args:
        tell: writes it.
        every: seconds between two words.
        at_once: also what `say` is given, as soon as it is.
    """

    def __init__(self, tell: Callable[[str], None], *, every: float, at_once: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._every, self._at_once, self._clock = tell, every, at_once, clock
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._on = False
        self._title, self._about, self._word, self._began = "", 0.0, "", clock()
        self._thread = threading.Thread(target=self._keep_telling, daemon=True)

    def __enter__(self) -> Voice:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def begin(self, title: str, seconds: float) -> None:
        """A claim that takes about so long; a title only where its name does not stand above."""
        with self._lock:
            self._on = True
            self._title, self._about, self._word, self._began = title, seconds, "", self._clock()

    def end(self) -> None:
        """It is over."""
        with self._lock:
            self._on = False

    def say(self, text: str) -> None:
        """What goes on from now on."""
        with self._lock:
            self._word = text
            if self._at_once:
                self._speak()

    def _keep_telling(self) -> None:
        while not self._over.wait(self._every):
            with self._lock:
                self._speak()

    def _speak(self) -> None:
        if self._on:
            passed = f"{about(self._clock() - self._began)} of about {about(self._about)}"
            self._tell(": ".join(filter(None, (self._title, passed, self._word))))


def about(seconds: float) -> str:
    """A time for people: `8 s`, `12 min`, `2.0 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"
