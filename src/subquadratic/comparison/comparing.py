"""A comparison in the making: what there is of it, who computes, and what is kept after each answer."""

from __future__ import annotations

import dataclasses
import datetime
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .display import Display
from .folder import LOG
from .options import CompareOptions, foreign, ours
from .remaining import remaining
from .results import NAME, Comparison, Entry, save
from .workers import WorkError, Workers


class Comparing:
    """One comparison, being made or gone on with.

    Args:
        options: checked.
        folder: its own; None: nothing is written, as for `--dry_run`.
        comparison: what there is of it already; None: nothing.
        after: called with the comparison and its folder whenever something was added, to draw the page.
    """

    def __init__(
        self,
        options: CompareOptions,
        folder: Path | None,
        display: Display,
        *,
        comparison: Comparison | None = None,
        command: list[str] | None = None,
        after: Callable[[Comparison, Path], None] = lambda comparison, folder: None,
    ) -> None:
        self.options, self.folder, self.display, self.after = options, folder, display, after
        self.workers = Workers(options, None if folder is None else folder / LOG)
        self.began = time.monotonic()
        self.foreign = {model.name: model for model in foreign(options)}
        if comparison is None:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            settings = {"options": dataclasses.asdict(options), "length": options.length, "equal": options.equal, "seeds": options.seeds}
            comparison = Comparison(settings=settings, machine={}, data={}, unit="", command=command or [], started=now)
        comparison.settings["options"] = dataclasses.asdict(options)  # with models that were added
        self.complete_before = bool(comparison.data) and not comparison.interrupted
        comparison.interrupted = True
        self.comparison = comparison
        self._before = comparison.seconds
        self._expected, self._takes, self._since = 0.0, 0.0, self.began
        display.left = self.left
        known = {entry.name for entry in comparison.entries}
        for name in [*ours(options), *self.foreign]:
            if name not in known:
                model = self.foreign.get(name)
                comparison.entries.append(Entry(name=name, source="ours" if model is None else model.source))

    def keep(self) -> None:
        """Save what there is."""
        self.comparison.seconds = self._before + time.monotonic() - self.began
        if self.folder is not None:
            save(self.comparison, self.folder / NAME)
            self.after(self.comparison, self.folder)

    def expect(self, takes: float = 0.0) -> None:
        """Something begins that takes about so many seconds."""
        found = remaining(self.comparison, seeds=self.options.seeds, rates=self.options.rates)
        self._expected = max(0.0, self.options.seconds() - (time.monotonic() - self.began)) if found is None else found
        self._takes, self._since = takes, time.monotonic()

    def left(self) -> float:
        """About how many seconds the comparison still takes."""
        passed = time.monotonic() - self._since
        return max(0.0, self._expected - (min(passed, self._takes) if self._takes else passed))

    def budget_left(self) -> float:
        """Seconds of the budget, of which what was interrupted has had its part; without end for what is added to a complete comparison."""
        if self.complete_before:
            return math.inf
        return self.options.seconds() - self._before - (time.monotonic() - self.began)

    def taking_part(self) -> list[Entry]:
        return [entry for entry in self.comparison.entries if entry.parameters and not entry.skipped]

    def ask(self, what: str, do: str, *, takes: float = 0.0, **arguments: Any) -> dict[str, Any]:
        """What a worker answers to `do`; `what` it does, in words, and about how many seconds it `takes`.

        Raises:
            WorkError: it failed, or its process died.
            ValueError: the data cannot be used.
            KeyboardInterrupt: it was interrupted, and has written its checkpoint.
        """
        self.expect(takes)
        self.display.doing(what)
        try:
            return self.workers.ask(do, self.display.progress, **arguments)
        except WorkError as error:
            if error.kind == "KeyboardInterrupt":
                raise KeyboardInterrupt from error
            if do == "facts" and error.kind in ("ValueError", "ModuleNotFoundError"):
                raise ValueError(str(error)) from error
            raise
        finally:
            self.display.done()

    @contextmanager
    def closing(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.workers.close(interrupted=isinstance(error, KeyboardInterrupt))
            self.keep()
            raise
        self.workers.close()
