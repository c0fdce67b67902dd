"""Threads that wait asleep, unless the user wants otherwise; and how many there are."""

import os
import subprocess
import sys

import pytest
import torch

from subquadratic.cli import spinning
from subquadratic.cli.neighbours import share_processors
from subquadratic.core.threads import CHOSEN, SLEEPING, usable_cores, use_threads


def test_waiting_is_arranged_before_pytorch_is_loaded() -> None:
    code = (
        "import os, sys, threading; from subquadratic.cli.main import main;"
        "status = main(['info', '--model', 'transformer', '--options', 'false']);"
        "watched = any(thread.name == 'subq-spinning' for thread in threading.enumerate());"
        "assert 'torch' in sys.modules and os.environ['KMP_BLOCKTIME'] == '0' and (watched or os.environ['GOMP_SPINCOUNT'] == '1000');"
        "sys.exit(status)"
    )
    environment = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", CHOSEN)
def test_who_has_chosen_keeps_the_choice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    environment = {name: "ACTIVE"}
    assert not share_processors(environment)
    assert environment == {name: "ACTIVE"}


@pytest.mark.parametrize("watched", [False, True])
def test_the_environment_decides_where_nobody_can_watch(watched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    started: list[int] = []
    monkeypatch.setattr(spinning, "can_watch", lambda cores: watched)
    monkeypatch.setattr(spinning, "watch", started.append)
    environment: dict[str, str] = {}
    assert share_processors(environment)
    assert environment == ({"KMP_BLOCKTIME": "0"} if watched else SLEEPING)
    assert started == ([usable_cores()] if watched else [])
    assert share_processors(dict(environment))  # in a process that one of ours started
    assert len(started) == 2 * watched


def test_a_program_that_has_loaded_pytorch_keeps_its_environment() -> None:
    environment: dict[str, str] = {}
    assert not share_processors(environment) and environment == {}


def test_ranks_share_the_cores() -> None:
    before, cores = torch.get_num_threads(), usable_cores()
    try:
        assert use_threads(1, {}) == 1
        assert use_threads(2, {"LOCAL_WORLD_SIZE": "8"}) == 2  # who says a number gets it
        assert use_threads(None, {"LOCAL_WORLD_SIZE": str(2 * cores)}) == 1
        assert use_threads(None, {"LOCAL_WORLD_SIZE": "1"}) == 1  # as there are
        torch.set_num_threads(2)
        assert use_threads(None, {"LOCAL_WORLD_SIZE": "8", "OMP_NUM_THREADS": "2"}) == 2
        with pytest.raises(ValueError, match="threads must be an integer of at least 1, got 0"):
            use_threads(0, {})
    finally:
        torch.set_num_threads(before)
