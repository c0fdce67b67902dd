"""Lines on narrow terminals."""

import io

from subquadratic.comparison.display import Display
from subquadratic.training.display import PlainDisplay


def test_lines_are_no_wider_than_the_terminal() -> None:
    stream = io.StringIO()
    display = Display(PlainDisplay(stream), width=60)
    text = "model       linformer, dim 96, depth 4: 1,003,456 parameters, 23 ms a step, and more words than fit into the line"
    display.report("model", text)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3 and max(map(len, lines)) <= 60
    assert lines[1].startswith(" " * 12) and " ".join(stream.getvalue().split()) == " ".join(text.split())
    display.say("")
