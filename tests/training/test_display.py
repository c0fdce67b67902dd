import io
import json
import os
import subprocess
import sys

import pytest

from subquadratic.training.display import JsonDisplay, LiveDisplay, PlainDisplay, clock, make_display

NUMBERS = {"step": 1234, "bits": 2.5, "speed": 9800.0, "left": 187.0, "progress": 0.4}


def test_programs_get_an_object_a_line() -> None:
    stream = Terminal()
    display = make_display(stream, as_json=True)
    assert isinstance(display, JsonDisplay)
    display.say("data \x1b[2J\nmore")
    display.report("step", "a line for people", step=3, loss=1.5)
    display.update(**NUMBERS)  # type: ignore[arg-type]
    display.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines == [{"event": "message", "text": "data \x1b[2J\nmore"}, {"event": "step", "step": 3, "loss": 1.5}]


def test_quiet_shows_nothing() -> None:
    stream = Terminal()
    display = make_display(stream, quiet=True)
    display.say("data")
    display.report("step", "a line for people", step=3)
    display.update(**NUMBERS)  # type: ignore[arg-type]
    display.close()
    assert stream.getvalue() == ""


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


def test_a_run_outlives_whoever_read_its_output() -> None:
    code = (
        "import sys, time; from subquadratic.training.display import make_display; display = make_display(); display.say('first')\n"
        "time.sleep(0.3)\nfor i in range(5): display.say('more')\nprint('done', file=sys.stderr)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == b"first\n"
    process.stdout.close()
    assert process.stderr.read() == b"done\n"
    assert process.wait() == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_run_outlives_the_disk_of_its_log() -> None:
    code = "import sys; from subquadratic.training.display import make_display; make_display().say('x'); print('done', file=sys.stderr)"
    with open("/dev/full", "w") as full:
        found = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, check=True)
    assert found.stderr == b"done\n"


def test_a_run_outlives_its_terminal() -> None:
    code = (
        "import sys, time; from subquadratic.training.display import make_display; display = make_display(); display.say('first')\n"
        "sys.stdin.readline()\nfor i in range(5): display.update(step=i, bits=1, speed=1, left=1, progress=.1); display.say('more')\n"
        "display.close(); print(type(display).__name__, file=sys.stderr)"
    )
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    while b"first" not in os.read(ours, 1000):
        pass
    os.close(ours)
    assert process.communicate(b"\n")[1] == b"LiveDisplay\n"
    assert process.returncode == 0


def test_any_letter_can_be_shown_anywhere() -> None:
    code = "from subquadratic.training.display import make_display; make_display().say('caf\\u00e9 \\u27eb \\x1b[2J')"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True).stdout
    assert shown == b"caf? ? ?[2J\n"


def test_a_run_without_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    make_display().say("nothing to see")
