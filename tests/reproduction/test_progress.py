"""Words on the way: not too many, and with the time that is left."""

import pytest

from subquadratic.reproduction.claim import Setting
from subquadratic.reproduction.progress import Steps, about


def test_steps_are_told_once_a_second_with_what_is_left() -> None:
    heard: list[str] = []
    now = 0.0
    asked = []

    def more() -> str:
        asked.append(now)
        return "loss 0.5"

    steps = Steps(Setting(say=heard.append), "a model", 1000, clock=lambda: now)
    for count in range(1, 26):
        now = count / 10
        steps.done(count, more)
    assert heard == ["a model step 10 of 1,000: loss 0.5, 99 s left", "a model step 20 of 1,000: loss 0.5, 98 s left"]
    assert asked == [1.0, 2.0]
    now = 50.0
    steps.done(500)
    assert heard[-1] == "a model step 500 of 1,000: 50 s left"


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0 s"), (99.4, "99 s"), (99.6, "2 min"), (5969, "99 min"), (7200, "2.0 h")])
def test_times_are_short(seconds: float, text: str) -> None:
    assert about(seconds) == text
