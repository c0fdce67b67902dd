"""Progress for people: a live line on a terminal, a line now and then elsewhere; and for programs, an object a line."""

from __future__ import annotations

import io
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO, cast

from ..core.plain_json import to_json
from .status import StatusLine

# What would move a terminal's cursor or change its colours is shown as the picture of the character.
PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
PICTURES |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def make_display(stream: TextIO | None = None, *, quiet: bool = False, as_json: bool = False) -> PlainDisplay:
    """The display that suits `stream` (standard output): letters that it cannot write become `?`, and where there is none, or it can
    no longer be written, the run goes on without a word. `quiet` shows nothing, `as_json` one JSON object a line."""
    stream = sys.stdout if stream is None else stream
    if stream is None or quiet:  # a process may be started without
        return PlainDisplay(nowhere())
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
        stream = cast(TextIO, _Lasting(stream))
    status = StatusLine(sys.stderr)
    if as_json:
        return JsonDisplay(stream, status=status)
    return LiveDisplay(stream, status) if stream.isatty() else PlainDisplay(stream, status=status)


def nowhere() -> TextIO:
    """What is written here is lost."""
    return Path(os.devnull).open("w", encoding="utf-8")


def clock(seconds: float) -> str:
    """`4:07`, or `1:02:33`."""
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class _Lasting:
    """A stream that loses what it cannot write: to a pipe that nobody reads any more, a terminal that was closed, a full disk."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except OSError:
            self._lose()
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError:
            self._lose()

    def _lose(self) -> None:
        """From now on into nothing, and what waits in its buffer too: else Python's own flush at the end would fail again."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self.stream.fileno())
        os.close(nothing)


class PlainDisplay:
    """A line at most every `interval` seconds: for pipes and log files."""

    unit = "bits/byte"

    def __init__(self, stream: TextIO, interval: float = 10.0, status: StatusLine | None = None) -> None:
        self.stream, self.interval, self._last = stream, interval, -float("inf")
        self.status = StatusLine(None) if status is None else status
        self._reading: float | None = None

    def say(self, text: str) -> None:
        """A line that stays."""
        self.status.clear()
        print(text.translate(PICTURES), file=self.stream, flush=True)

    def report(self, event: str, text: str | None = None, **values: Any) -> None:
        """Something that happened: a line for people where there is one, `values` for programs."""
        if text is not None:
            self.say(text)

    def waiting(self, text: str) -> None:
        """What is going on until there is something to show."""
        self.status.show(text)

    def update(self, *, step: int, bits: float, speed: float, left: float, progress: float) -> None:
        """Where the run is: training loss in bits per `unit`, `speed` in tokens a second, `left` in seconds."""
        self.status.clear()
        if time.monotonic() - self._last >= self.interval:
            self._last = time.monotonic()
            self.say(self.line(step=step, bits=bits, speed=speed, left=left))

    def reading(self, done: int, total: int | None) -> None:
        """How much of the data has been read, in bytes; `total` where it is known. Nothing where it is over in a moment."""
        if self._reading is None:
            self._reading = time.monotonic()
        elif time.monotonic() - self._reading >= self.interval:
            self._reading = time.monotonic()
            share = "" if not total else f" of {total / 1e6:,.0f} MB, {done / total:.0%}"
            self.report("reading", f"reading     {done / 1e6:,.0f}{share or ' MB'}", bytes=done, total=total)

    def line(self, *, step: int, bits: float, speed: float, left: float) -> str:
        return f"step {step:>6,}  {bits:6.3f} {self.unit}  {speed:>9,.0f} tokens/s  {clock(left):>7} left"

    def close(self) -> None:
        """No more updates; `say` still works."""
        self.status.clear()


class JsonDisplay(PlainDisplay):
    """One JSON object a line: `event` says what happened. What is said for people alone is a "message"."""

    def say(self, text: str) -> None:
        self.report("message", text=text)

    def report(self, event: str, text: str | None = None, **values: Any) -> None:
        content = {"event": event, **({"text": text} if event == "message" else values)}
        self.status.clear()
        print(to_json(content), file=self.stream, flush=True)

    def update(self, **numbers: float) -> None:
        """The same numbers come as the event "step"."""


class LiveDisplay(PlainDisplay):
    """A progress bar that stays in place, below the lines that `say` writes."""

    def __init__(self, stream: TextIO, status: StatusLine | None = None) -> None:
        super().__init__(stream, status=status)
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.description}"))
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._progress = Progress(*columns, console=self._console, transient=True)
        self._task = self._progress.add_task("", total=1.0)

    def say(self, text: str) -> None:
        self.status.clear()
        self._console.print(text.translate(PICTURES), markup=False, soft_wrap=True)

    def update(self, *, step: int, bits: float, speed: float, left: float, progress: float) -> None:
        self.status.clear()
        self._progress.start()
        line = self.line(step=step, bits=bits, speed=speed, left=left)
        self._progress.update(self._task, completed=progress, description=line)

    def close(self) -> None:
        self.status.clear()
        self._progress.stop()
