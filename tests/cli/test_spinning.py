"""Threads spin while processors are free and sleep while they are contended."""

import ctypes
import threading
import time
from pathlib import Path

import pytest
import torch

from subquadratic.cli import spinning
from subquadratic.cli.spinning import CONTENDED, FREE, PATIENCE, SleepingTeam, adapt, can_watch

LINUX = pytest.mark.skipif(not Path("/proc/self/schedstat").is_file(), reason="the kernel does not count what threads wait for")


class Recorded:
    """Stands in for a team."""

    def __init__(self) -> None:
        self.exists, self.changes = False, []

    def form(self) -> None:
        self.exists = True
        self.changes.append("form")

    def dissolve(self) -> None:
        self.exists = False
        self.changes.append("dissolve")


def changes(shares: list[float]) -> list[str]:
    team, left = Recorded(), iter(shares)
    with pytest.raises(StopIteration):
        adapt(team, lambda: next(left), lambda: None)  # type: ignore[arg-type]
    return team.changes


def test_threads_sleep_at_the_first_contention_and_spin_again_after_a_while() -> None:
    assert changes([0.0, CONTENDED / 2]) == []
    assert changes([0.0, CONTENDED]) == ["form"]
    assert changes([CONTENDED] + [FREE] * (PATIENCE - 1) + [CONTENDED / 2] + [0.0] * (PATIENCE - 1)) == ["form"]
    assert changes([CONTENDED] + [0.0] * PATIENCE + [CONTENDED]) == ["form", "dissolve", "form"]


@LINUX
def test_what_threads_waited_for_is_counted() -> None:
    waited = spinning._Waited()
    assert 0 <= waited.share() < 100
    assert str(threading.get_native_id()) in spinning._run_delays()
    assert can_watch(2) and not can_watch(10_000)


@LINUX
def test_a_second_team_comes_and_goes_and_changes_no_result() -> None:
    library = spinning._loaded_openmp()
    if library is None:
        pytest.skip("PyTorch uses another OpenMP here")
    assert isinstance(library, ctypes.CDLL)
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    expected, threads = x @ x, len(list(spinning.TASKS.iterdir()))
    team = SleepingTeam(library, 2)
    for _ in range(2):
        team.form()
        assert team.exists and torch.equal(x @ x, expected)
        team.dissolve()
        assert not team.exists and torch.equal(x @ x, expected)
    until = time.monotonic() + 10  # its threads end by themselves
    while len(list(spinning.TASKS.iterdir())) > threads and time.monotonic() < until:
        time.sleep(0.02)
    assert len(list(spinning.TASKS.iterdir())) <= threads
