"""How many threads of this process compute."""

import os
from collections.abc import Mapping

from .errors import require, require_positive

RANKS = "LOCAL_WORLD_SIZE"  # processes on this machine, as torchrun says it
# GNU's OpenMP, in PyTorch's packages for Linux, counts turns of a loop; Intel's and Clang's take milliseconds.
SLEEPING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}  # threads that wait for others soon sleep; OpenMP reads it when it is loaded
# Whoever has set one of these knows better, whichever OpenMP it is for.
CHOSEN = (*SLEEPING, "OMP_WAIT_POLICY", "KMP_LIBRARY")
MOST = 8  # threads for each core, and a hundred anywhere: more than are of use, and few enough for the system to start


def use_threads(threads: int | None, environment: Mapping[str, str] = os.environ) -> int:
    """From now on compute with this many threads, PyTorch's operators and the C kernels alike; how many there are.

    Args:
        threads: None: as many as there are, but for several processes of one run, which share the machine's cores, each at least one;
            where ``OMP_NUM_THREADS`` is set (``torchrun`` sets it to 1), as many as it says.

    Raises:
        ValueError: for less than one, and as `check_threads`.
    """
    import torch

    require_positive(threads=threads)
    check_threads(threads)
    if threads is None and "OMP_NUM_THREADS" not in environment:
        ranks = environment.get(RANKS, "1")
        if ranks.isdecimal() and int(ranks) > 1:
            threads = max(1, usable_cores() // int(ranks))
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def chosen_waiting(environment: Mapping[str, str]) -> bool:
    """Whether the user has said how threads wait; a parent process of ours may have."""
    return any(environment.get(name, SLEEPING.get(name)) != SLEEPING.get(name) for name in CHOSEN)


def sleeping_threads(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment for a process whose OpenMP threads sleep where others want their processors, unless it says how they wait."""
    return {**SLEEPING, **environment} if not chosen_waiting(environment) else dict(environment)


def check_threads(threads: int | None) -> None:
    """Raises ValueError for so many threads that the system may not start them, which ends a process at once."""
    cores = usable_cores()
    most = max(100, MOST * cores)
    require(threads is None or threads <= most, f"threads must be at most {most} (this process has {cores} cores), got {threads}")


def usable_cores() -> int:
    """Cores that this process may run on, which containers and ``taskset`` make fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
