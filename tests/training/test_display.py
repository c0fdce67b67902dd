import io

import pytest

from subquadratic.training.display import LiveDisplay, PlainDisplay, clock, make_display

NUMBERS = {"step": 1234, "bits": 2.5, "speed": 9800.0, "left": 187.0, "progress": 0.4}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (247, "4:07"), (3753, "1:02:33"), (-1, "0:00")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_pipe_gets_plain_lines_now_and_then() -> None:
    stream = io.StringIO()
    display = make_display(stream)
    assert type(display) is PlainDisplay
    for _ in range(3):
        display.update(**NUMBERS)  # type: ignore[arg-type]
    display.say("done [red]")
    assert stream.getvalue() == "step  1,234   2.500 bits/byte      9,800 tokens/s     3:07 left\ndone [red]\n"


def test_a_terminal_gets_a_bar_and_text_as_it_is() -> None:
    stream = Terminal()
    display = make_display(stream)
    assert isinstance(display, LiveDisplay)
    display.say("data [red] :smile:")
    display.update(**NUMBERS)  # type: ignore[arg-type]
    display.close()
    display.say("after")
    shown = stream.getvalue()
    assert "data [red] :smile:" in shown
    assert "2.500 bits/byte" in shown
    assert shown.rstrip().endswith("after")
