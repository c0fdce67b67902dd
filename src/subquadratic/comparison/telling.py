"""The display of a run in a worker: what it shows goes to the process that asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..training.display import PlainDisplay, nowhere


class Telling(PlainDisplay):
    def __init__(self, tell: Callable[..., None]) -> None:
        super().__init__(nowhere())
        self._tell = tell

    def update(self, *, step: int, bits: float, speed: float, left: float, progress: float) -> None:
        self._tell(step=step, bits=bits, speed=speed, left=left, progress=progress)

    def report(self, event: str, text: str | None = None, **values: Any) -> None:
        if event == "validation":
            self._tell(validation=values)
