"""Every test starts from the same random state, on one thread, with uninitialised memory poisoned.

With deterministic algorithms on, torch fills what `torch.empty` and friends return with NaN, so that code reading
memory it never wrote fails instead of passing by luck. `warn_only`: operations without a deterministic form may still
be used.

Triton kernels run compiled where there is a GPU, elsewhere in Triton's interpreter; C kernels are those for this processor, and those for
others.
"""

import gc
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # read when torch is loaded: threads that spin would take the other workers' cores

import pytest
import torch
from tests.kernels.builds import BY_NAME, SANITIZED, built, in_parts

from subquadratic.kernels.native import library

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton, as compilers do


def pytest_configure(config: pytest.Config) -> None:
    torch.set_deterministic_debug_mode("warn")  # `use_deterministic_algorithms` would import the compiler, for a second or two
    torch.utils.deterministic.fill_uninitialized_memory = True


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process per core for the whole suite; none for named files, where starting them costs more than it saves."""
    named = config.args if config.args_source is config.ArgsSource.ARGS else []
    whole_suite = not named or any(Path(__file__).is_relative_to(Path(name).absolute()) for name in named)
    return (os.cpu_count() or 1) if whole_suite else 0


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What importing and collecting made stays to the end: not looking at it again halves what a training run's own `gc.collect` takes."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class _NoGarbage:
    """Stands for `gc` where it is collected after every training, and before every reading of a clock: in a process that has imported as
    much as the tests', that takes longer than what is trained or timed."""

    collect = staticmethod(lambda: 0)


@pytest.fixture(autouse=True)
def uncollected() -> None:
    for name in ("accelerate.utils.memory", "subquadratic.benchmark.timing", "subquadratic.benchmark.run"):
        if (module := sys.modules.get(name)) is not None:
            module.gc = _NoGarbage  # type: ignore[attr-defined]


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
    monkeypatch.setattr(library, "library", lambda: other)  # whom `call` asks
