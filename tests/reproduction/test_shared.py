"""What several claims ask for is measured once, speaks to whoever asks, and its cost is known to those who found it ready."""

import pytest
import torch

from subquadratic.reproduction import shared as module
from subquadratic.reproduction.claim import Setting
from subquadratic.reproduction.shared import counting, shared


class Clock:
    """Ten seconds a look at either clock."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 10.0
        return self.now


@pytest.fixture(autouse=True)
def _slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "perf_counter", Clock())
    monkeypatch.setattr(module.time, "process_time", Clock())


def test_it_is_called_once_for_each_seed_effort_thread_count_and_argument() -> None:
    calls = []

    @shared
    def part(setting: Setting, name: str, *, size: int = 1) -> object:
        calls.append((setting.seed, setting.effort, name, size))
        return object()

    first = part(Setting(), "a")
    assert part(Setting(say=print), "a") is first and len(calls) == 1
    part(Setting(seed=1), "a"), part(Setting(effort=0.5), "a"), part(Setting(), "b"), part(Setting(), "a", size=2)
    assert len(calls) == 5
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert part(Setting(), "a") is not first
    finally:
        torch.set_num_threads(before)
    part.cache_clear()
    assert part(Setting(), "a") is not first


def test_it_speaks_to_whoever_asks() -> None:
    @shared
    def part(setting: Setting, name: str) -> None:
        setting.say(f"measuring {name}")

    heard: list[str] = []
    part(Setting(), "a")
    part(Setting(say=heard.append), "b")
    assert heard == ["measuring b"]


def test_what_was_found_ready_is_told_once_and_nested_parts_count() -> None:
    @shared
    def inner(setting: Setting) -> int:
        return 1

    @shared
    def outer(setting: Setting) -> int:
        return inner(setting)

    with counting() as first:
        outer(Setting())
    assert first.seconds == first.cpu_seconds == 0.0
    with counting() as second:
        outer(Setting()), outer(Setting())
    assert second.seconds == second.cpu_seconds > 0
    outer.cache_clear()
    with counting() as third:
        outer(Setting())
    assert 0 < third.seconds < second.seconds
