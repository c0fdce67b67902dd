"""The line that says what is going on: after a while, on a terminal, and gone before anything else is written."""

import io
import time

import pytest

from subquadratic.training.display import PlainDisplay
from subquadratic.training.status import StatusLine, status


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def wait_for(terminal: io.StringIO, text: str) -> None:
    end = time.monotonic() + 10
    while text not in terminal.getvalue() and time.monotonic() < end:
        time.sleep(0.005)
    assert text in terminal.getvalue()


def test_what_takes_long_is_told_and_wiped() -> None:
    terminal = Terminal()
    line = StatusLine(terminal, patience=0.02)
    line.show("reading")
    wait_for(terminal, "\r\x1b[Kreading")
    line.show("building")  # a line stands: no need to wait again
    assert terminal.getvalue().endswith("\r\x1b[Kbuilding")
    line.clear()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_what_is_over_soon_is_not_told() -> None:
    terminal = Terminal()
    line = StatusLine(terminal, patience=60)
    line.show("reading")
    line.show("building")
    line.clear()
    assert terminal.getvalue() == ""


def test_many_short_steps_are_one_long_wait() -> None:
    terminal = Terminal()
    line = StatusLine(terminal, patience=0.1)
    for number in range(1000):
        line.show(f"option {number}")
        time.sleep(0.005)
        if terminal.getvalue():
            break
    line.clear()
    assert "option" in terminal.getvalue()


@pytest.mark.parametrize("stream", [None, io.StringIO()], ids=["none", "pipe"])
def test_nothing_where_nobody_looks(stream: io.StringIO | None) -> None:
    line = StatusLine(stream, patience=0.0)
    line.show("reading")
    time.sleep(0.02)
    line.clear()
    assert stream is None or stream.getvalue() == ""


def test_a_display_wipes_it_before_it_writes() -> None:
    terminal, output = Terminal(), io.StringIO()
    display = PlainDisplay(output, status=StatusLine(terminal, patience=0.02))
    display.waiting("first step")
    wait_for(terminal, "first step")
    display.say("data")
    assert terminal.getvalue().endswith("\r\x1b[K")
    assert output.getvalue() == "data\n"


def test_nothing_is_told_where_it_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    for hidden in (True, False):
        with status("loading", hidden=hidden) as line:
            assert (line._stream is None) == hidden
