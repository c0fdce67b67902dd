"""Every test starts from the same random state, on one thread, with uninitialised memory poisoned.

With deterministic algorithms on, torch fills what `torch.empty` and friends return with NaN, so that code reading
memory it never wrote fails instead of passing by luck. `warn_only`: operations without a deterministic form may still
be used.
"""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # for tests/kernels, and before anything imports triton, as compilers do


def pytest_configure(config: pytest.Config) -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process per core for the whole suite; none for named files, where starting them costs more than it saves."""
    named = config.args if config.args_source is config.ArgsSource.ARGS else []
    whole_suite = not named or any(Path(__file__).is_relative_to(Path(name).absolute()) for name in named)
    return (os.cpu_count() or 1) if whole_suite else 0


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
