"""Triton kernels run compiled where there is a GPU, elsewhere in Triton's interpreter, which tests/conftest.py asks for; C kernels are
compiled for this processor, and for narrower ones."""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from subquadratic.kernels.native import (
    add_norm,
    favor,
    favor_step,
    feed_forward,
    feedback,
    library,
    pool,
    prefix_softmax,
    rotary,
    slots,
    softmax,
)

SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1")
SANITIZED = "SUBQUADRATIC_SANITIZE" in os.environ  # set by test_native_fuzz.py, which sees to it that sanitizers are in the process
if SANITIZED:
    library.FLAGS += SANITIZERS
    library.library()  # without it everything here would be skipped

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


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """So many threads of PyTorch as the test asks for, by ``parametrize(..., indirect=True)``."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


# What the processor has, its vectors without a matrix unit, and narrower ones, which other processors have.
TARGETS = {"native": None, "no matrix unit": ("-march=native",), "8 lanes": ("-march=x86-64-v3",), "4 lanes": ("-march=x86-64-v2",)}


@pytest.fixture(params=TARGETS)
def lanes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The C kernels as they are compiled for this processor, and as for others."""
    target = TARGETS[request.param]
    if target is None:
        return
    if SANITIZED:
        pytest.skip("compiled for this processor alone")
    if "avx2" not in library._processor():
        pytest.skip("made for other processors than this one")
    if target == library._for_this_processor():
        pytest.skip("the same as native")
    narrow, _ = library.compiled(target)
    for module in (add_norm, favor, favor_step, feed_forward, feedback, pool, prefix_softmax, rotary, slots, softmax):
        monkeypatch.setattr(module, "library", lambda: narrow)
