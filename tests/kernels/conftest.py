"""The kernels run compiled where there is a GPU, elsewhere in Triton's interpreter, which tests/conftest.py asks for."""

from importlib.util import find_spec
from typing import Any

import pytest
import torch

INTERPRET = not torch.cuda.is_available()


def _let_loops_count() -> None:
    """Triton before 3.9 asks for the int of a one-element array, which NumPy refuses from 2.4 on: loops with a computed end would fail."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def with_index(tensor: Any, *rest: Any) -> None:
        patch(tensor, *rest)
        tensor.__index__ = lambda self: int(self.handle.data.item())

    interpreter._patch_lang_tensor = with_index


if INTERPRET and find_spec("triton") is not None:
    _let_loops_count()


@pytest.fixture
def device() -> torch.device:
    return torch.device("cpu" if INTERPRET else "cuda")
