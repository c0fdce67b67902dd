"""However a step's rows are cut into batches, and over how many processes: the same loss and the same gradient."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.training import steps as script
from tests.training.steps import KINDS, first_steps, write_data

STEPS = 8  # more than an epoch of most kinds has, whose last step is a part of one


def assert_same(found: list[tuple[float, float]], wanted: list[tuple[float, float]]) -> None:
    assert len(found) == len(wanted)
    for step, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        assert all(map(math.isfinite, ours))
        assert ours == pytest.approx(theirs, rel=2e-4, abs=1e-6), f"step {step + 1}"


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_a_step_are_one_large_batch(kind: str, tmp_path: Path) -> None:
    """Rows of uneven lengths, batches in which nothing is scored, epochs that end in the middle of a step."""
    write_data(tmp_path)
    wanted = first_steps(tmp_path, kind, 8, 1, STEPS)
    assert len({loss for loss, _ in wanted}) > 1
    for batch_size, accumulation in ((4, 2), (1, 8)):
        assert_same(first_steps(tmp_path, kind, batch_size, accumulation, STEPS), wanted)


@pytest.mark.slow
def test_batches_of_two_processes_are_one_large_batch(tmp_path: Path) -> None:
    """Also where they do not go round at the end of an epoch, and where a process has nothing to score."""
    write_data(tmp_path)
    cases = [(kind, *split, STEPS) for kind in KINDS for split in ((4, 1), (2, 2), (1, 4)) if kind != "masked text"]  # hides other tokens
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*start, script.__file__, str(tmp_path), json.dumps(cases)]
    subprocess.run(command, check=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wanted = {kind: first_steps(tmp_path, kind, 8, 1, STEPS) for kind in KINDS}
    for case, found in zip(cases, json.loads((tmp_path / "found.json").read_text()), strict=True):
        assert_same(found, wanted[case[0]])
