"""Triton kernels run compiled where there is a GPU, elsewhere in Triton's interpreter, which tests/conftest.py asks for; C kernels are
those for this processor, and those for others."""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from subquadratic.attention.additive import native_mean_operators as pool
from subquadratic.attention.additive import native_running_operators as prefix_softmax
from subquadratic.attention.favor import native_operators as favor
from subquadratic.attention.favor import native_step as favor_step
from subquadratic.attention.feedback import native_operators as feedback
from subquadratic.attention.low_rank import native_operators as slots
from subquadratic.attention.softmax import native_operators as softmax
from subquadratic.kernels.native import library
from subquadratic.layers.feed_forward import native_operators as feed_forward
from subquadratic.layers.norms import native_operators as add_norm
from subquadratic.layers.rotary import native_operators as rotary

from .builds import BY_NAME, built, in_parts

SANITIZED = os.environ.get("SUBQUADRATIC_SANITIZE")  # a library with sanitizers, which test_native_fuzz.py builds, and their runtimes
if SANITIZED:
    found = library.load(Path(SANITIZED))
    library._own = lambda: (found, BY_NAME[Path(SANITIZED).stem.removeprefix("kernels-")])  # whatever has asked for it by now
elif "have changed" in str(library.why_not()):
    raise pytest.UsageError(f"tests of the kernels would be skipped: {library.why_not()}")

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


@pytest.fixture(params=["installed", *in_parts()])
def lanes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The C kernels as they are installed here, and as they are for other processors."""
    if request.param == "installed":
        return
    if SANITIZED:
        pytest.skip("one variant at a time")
    variant = in_parts()[request.param]
    if variant.name == library.variant():
        pytest.skip("the same as installed")
    other = library.load(built(variant))
    for module in (add_norm, favor, favor_step, feed_forward, feedback, pool, prefix_softmax, rotary, slots, softmax):
        monkeypatch.setattr(module, "library", lambda: other)
