"""Threads that wait asleep, unless the user wants otherwise; and how many there are."""

import os
import subprocess
import sys

import pytest
import torch

from subquadratic.cli import neighbours
from subquadratic.cli.neighbours import CHOSEN, SETTINGS, wait_asleep
from subquadratic.core.threads import usable_cores, use_threads


def test_waiting_is_set_before_pytorch_is_loaded() -> None:
    code = (
        "import os, sys; from subquadratic.cli.main import main; status = main(['info', '--model', 'transformer', '--options', 'false']);"
        f"assert 'torch' in sys.modules and all(os.environ[name] == value for name, value in {SETTINGS!r}.items()); sys.exit(status)"
    )
    environment = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", CHOSEN)
def test_who_has_chosen_keeps_the_choice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    environment = {name: "ACTIVE"}
    assert not wait_asleep(environment)
    assert environment == {name: "ACTIVE"}
    free: dict[str, str] = {}
    assert wait_asleep(free) and free == neighbours.SETTINGS


def test_a_program_that_has_loaded_pytorch_keeps_its_environment() -> None:
    environment: dict[str, str] = {}
    assert not wait_asleep(environment) and environment == {}


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
