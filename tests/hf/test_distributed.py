"""Two processes, by DDP and by FSDP2: the steps of one process with the whole batch, and a checkpoint that opens anywhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from tests.hf.models import CAUSAL, tokens

from subquadratic.hf import SubquadraticForCausalLM

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def run(name: str, tied: str, way: str, out: Path, *checkpoint: str) -> list[float]:
    """The losses of its steps."""
    start = [] if way == "single" else TORCHRUN
    command = [sys.executable, *start, "-m", "tests.hf.distributed_steps", name, tied, way, str(out), *checkpoint]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[float] = json.loads((out / "losses.json").read_text())
    return found


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
@pytest.mark.parametrize(
    ("name", "tied"),
    [("performer", "tied"), *((name, "untied") for name in sorted(CAUSAL) if name not in ("performer", "feedback_segments"))],
)
def test_two_processes_take_the_steps_of_one(name: str, tied: str, way: str, tmp_path: Path) -> None:
    one, two = run(name, tied, "single", tmp_path / "one"), run(name, tied, way, tmp_path / "two")
    assert len(one) == 4 and one == pytest.approx(two, rel=1e-4)
    whole, shared = (SubquadraticForCausalLM.from_pretrained(tmp_path / folder / "saved").eval() for folder in ("one", "two"))
    torch.testing.assert_close(whole(tokens(2, 9)).logits, shared(tokens(2, 9)).logits, atol=2e-3, rtol=1e-2)
    assert run(name, tied, way, tmp_path / "again", str(tmp_path / "two" / "checkpoint-2")) == two
