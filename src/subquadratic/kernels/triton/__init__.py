"""What the Triton kernels share, and whether they can run.

The kernels lie beside what they compute, as `triton.py`; they import triton, so only whoever runs them imports them. Nothing here does: ask
:func:`available` first.
"""

import os
from importlib.util import find_spec

import torch


def available(device: torch.device | str) -> bool:
    """Whether the kernels run on ``device``: triton is installed, and the device is a GPU or Triton's interpreter is on.

    The interpreter (``TRITON_INTERPRET=1`` in the environment before triton is imported) runs the kernels on a CPU, slowly: for tests.
    """
    if find_spec("triton") is None:
        return False
    return interpreted() or (torch.device(device).type == "cuda" and torch.cuda.is_available())


def interpreted() -> bool:
    """Whether the environment asks for Triton's interpreter."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in {"1", "true", "yes", "on", "y"}
