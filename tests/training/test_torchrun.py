"""Two processes under torchrun: the steps of one with twice the batch, one writer, and a stopped run that goes on bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from subquadratic.training.checkpoints import Checkpoints

pytestmark = pytest.mark.slow
OPTIONS = ["--model", "transformer", "--dim", "16", "--depth", "1", "--heads", "2", "--context", "32", "--evaluations", "1"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]


def train(*options: str, processes: int) -> list[str]:
    start = TORCHRUN if processes > 1 else [sys.executable, "-m"]
    return [*start, "subquadratic", "train", *options]


def losses(folder: Path) -> list[tuple[int, float]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in found if "loss" in line]


def test_two_processes_take_the_steps_of_one(text: Path, tmp_path: Path) -> None:
    options = ["--data", str(text), *OPTIONS, "--max_steps", "20"]
    for processes, batch in ((2, "2"), (1, "4")):
        command = train(*options, "--batch_size", batch, "--out", str(tmp_path / str(processes)), processes=processes)
        subprocess.run(command, check=True, capture_output=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"})
    two, one = losses(tmp_path / "2"), losses(tmp_path / "1")
    assert [step for step, _ in two] == [1, 10, 20]
    assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], rel=1e-5)
    newest = Checkpoints(tmp_path / "2").newest()
    assert newest is not None
    assert sorted(path.name for path in newest.glob("rng_state_*")) == ["rng_state_0.pth", "rng_state_1.pth"]


def test_two_processes_stopped_and_resumed(text: Path, tmp_path: Path) -> None:
    options = ["--data", str(text), *OPTIONS, "--max_steps", "300", "--fields.dropout", "0.1", "--save_every", "10"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(train(*options, "--out", str(tmp_path / "parts"), processes=2), env=environment, start_new_session=True)
    while not Checkpoints(tmp_path / "parts").steps() and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    resume = train("--resume", str(tmp_path / "parts"), processes=2)
    subprocess.run(resume, check=True, capture_output=True, timeout=240, env=environment)
    whole = train(*options, "--out", str(tmp_path / "whole"), processes=2)
    subprocess.run(whole, check=True, capture_output=True, timeout=240, env=environment)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert (tmp_path / "parts" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
