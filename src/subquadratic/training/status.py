"""One line on the terminal that says what is going on, where that takes longer than a second."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

PATIENCE = 1.0  # seconds without a word


class StatusLine:
    """Shown by a thread, since the main one is busy with what it tells of; wiped as soon as there is something else to show. Nothing where
    `stream` is no terminal."""

    def __init__(self, stream: TextIO | None, *, patience: float = PATIENCE) -> None:
        self._stream = stream if stream is not None and stream.isatty() else None
        self._patience, self._lock = patience, threading.Lock()
        self._timer: threading.Timer | None = None
        self._text = ""
        self._shown = False

    @property
    def visible(self) -> bool:
        """Whether anybody can see it."""
        return self._stream is not None

    def show(self, text: str) -> None:
        """From now on this is going on; said once it has been quiet for a second, or at once where a line stands already."""
        if self._stream is None:
            return
        with self._lock:
            self._text = text
            if self._shown:
                self._write()
            elif self._timer is None:
                self._timer = timer = threading.Timer(self._patience, lambda: self._ring(timer))
                timer.daemon = True
                timer.start()

    def clear(self) -> None:
        """It is over."""
        if self._stream is None:
            return
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._shown:
                self._put("\r\x1b[K")
                self._shown = False

    def _ring(self, timer: threading.Timer) -> None:
        with self._lock:
            if self._timer is timer:  # else it was over just now
                self._write()

    def _write(self) -> None:
        self._put(f"\r\x1b[K{self._text[: shutil.get_terminal_size().columns - 1]}")
        self._shown = True

    def _put(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            assert self._stream is not None
            self._stream.write(text)
            self._stream.flush()


@contextlib.contextmanager
def status(text: str = "", *, hidden: bool = False) -> Iterator[StatusLine]:
    """A line on standard error for what happens within, unless it is to be `hidden`; `show` says what comes next."""
    line = StatusLine(None if hidden else sys.stderr)
    if text:
        line.show(text)
    try:
        yield line
    finally:
        line.clear()
