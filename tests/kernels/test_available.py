"""Whether kernels can run is told without importing triton."""

import subprocess
import sys

import pytest
import torch

from subquadratic.kernels import triton
from subquadratic.kernels.triton import available


def test_asking_imports_no_triton() -> None:
    code = "import sys; from subquadratic.kernels.triton import available as a; a('cpu'), a('cuda'); print('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


@pytest.mark.parametrize(
    ("installed", "interpreter", "gpu", "device", "expected"),
    [
        (False, "1", True, "cuda", False),
        (True, "1", False, "cpu", True),
        (True, "0", False, "cpu", False),
        (True, "0", True, "cpu", False),
        (True, "0", True, "cuda:1", True),
        (True, "0", False, "cuda", False),
    ],
)
def test_needs_triton_and_a_gpu_or_the_interpreter(
    monkeypatch: pytest.MonkeyPatch, installed: bool, interpreter: str, gpu: bool, device: str, expected: bool
) -> None:
    monkeypatch.setattr(triton, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setenv("TRITON_INTERPRET", interpreter)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert available(torch.device(device)) is expected
