"""What people see while a comparison runs: a line for what is done, and below it what is going on and how long it all takes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

from ..training.display import PlainDisplay, clock

INDENT = " " * 12  # of what a line says, after its first word


class Display:
    """Lines and progress, through the display of a training run.

    Args:
        inner: where they go.
        width: columns of a line; None: as many as it has letters.

    Attributes:
        left: seconds that the comparison still takes; `Comparing` knows.
    """

    def __init__(self, inner: PlainDisplay, width: int | None = None) -> None:
        self.inner, self.width = inner, width
        self.left: Callable[[], float] = lambda: 0.0
        self._what = ""

    def say(self, text: str) -> None:
        self.inner.say(self._fitted(text))

    def doing(self, what: str) -> None:
        """What begins now."""
        self._what = what
        self.inner.waiting(f"{what} · {clock(self.left())} left in all")

    def progress(self, values: dict[str, Any]) -> None:
        """How far a worker is."""
        if "bits" in values:
            self.inner.waiting(
                f"{self._what} · {values['progress']:.0%} · {values['bits']:.3f} {self.inner.unit} · {clock(self.left())} left in all"
            )
        elif values.get("reading") and values.get("of"):
            self.inner.waiting(f"{self._what} · {values['reading'] / values['of']:.0%}")

    def done(self) -> None:
        self.inner.close()

    def report(self, event: str, text: str, **values: Any) -> None:
        """Something that happened: a line for people, `values` for programs."""
        self.inner.report(event, self._fitted(text), **values)

    def _fitted(self, text: str) -> str:
        """In lines of `width` columns at most, as far as its words allow it."""
        if self.width is None:
            return text
        return "\n".join(textwrap.wrap(text, self.width, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False)) or text

    @staticmethod
    def value(value: float | None, unit: str) -> str:
        if value is None:
            return "no result"
        return f"{value:.1%} right" if unit == "accuracy" else f"{value:.3f} {unit}"
