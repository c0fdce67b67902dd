"""Words on the way: not too many, and with the time that is left."""

import time

import pytest

from subquadratic.reproduction.claim import Setting
from subquadratic.reproduction.progress import Steps, Voice, about


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
    assert heard == ["a model step 10 of 1,000, 99 s left: loss 0.5", "a model step 20 of 1,000, 98 s left: loss 0.5"]
    assert asked == [1.0, 2.0]
    now = 50.0
    steps.done(500)
    assert heard[-1] == "a model step 500 of 1,000, 50 s left"
    now = 52.0
    steps.done(1)
    assert heard[-1] == "a model step 1 of 1,000"


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0 s"), (99.4, "99 s"), (99.6, "2 min"), (5969, "99 min"), (7200, "2.0 h")])
def test_times_are_short(seconds: float, text: str) -> None:
    assert about(seconds) == text


def test_a_voice_says_how_long_it_has_taken_and_never_nothing_for_long() -> None:
    heard: list[str] = []
    now = 0.0
    with Voice(heard.append, every=0.01, at_once=False, clock=lambda: now) as voice:
        voice.say("nothing goes on")
        time.sleep(0.05)
        assert heard == []
        voice.begin("a.claim", 400.0)
        now = 61.0
        time.sleep(0.1)
        assert len(heard) > 2 and set(heard) == {"a.claim: 61 s of about 7 min"}
        voice.say("training")
        time.sleep(0.1)
        assert heard[-1] == "a.claim: 61 s of about 7 min: training"
        voice.end()
        count = len(heard)
        time.sleep(0.05)
        assert len(heard) == count
    assert not voice._thread.is_alive()


def test_on_a_terminal_each_word_is_said_at_once() -> None:
    heard: list[str] = []
    with Voice(heard.append, every=60.0, at_once=True, clock=lambda: 0.0) as voice:
        voice.begin("", 10.0)
        voice.say("training")
    assert heard == ["0 s of about 10 s: training"]
