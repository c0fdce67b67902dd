"""A comparison in the making: what there is of it, who computes, and what is kept after each answer."""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .display import Display
from .folder import LOG
from .options import CompareOptions, foreign, ours
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
        comparison.interrupted = True
        self.comparison = comparison
        self._before = comparison.seconds
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

    def taking_part(self) -> list[Entry]:
        return [entry for entry in self.comparison.entries if entry.parameters and not entry.skipped]

    def ask(self, what: str, do: str, **arguments: Any) -> dict[str, Any]:
        """What a worker answers to `do`; `what` it does, in words.

        Raises:
            WorkError: it failed, or its process died.
            ValueError: the data cannot be used.
            KeyboardInterrupt: it was interrupted, and has written its checkpoint.
        """
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
            if self.comparison.entries and self.comparison.data:
                self.keep()
            raise
        self.workers.close()
