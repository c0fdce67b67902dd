"""Sharing processors with other programs: OpenMP's threads wait for work asleep instead of spinning.

PyTorch's operators and the C kernels are divided among a team of OpenMP threads, which meet at the end of each. Who is there first waits
spinning, by default for milliseconds: where another program has the processor of the last one, the rest keep theirs busy with nothing,
and the system gives the last one no more of it. On two cores a training step next to one busy process took three times as long as with
threads that soon sleep.

OpenMP reads the environment once, when PyTorch loads it. So the command line sets it before, and processes that it starts inherit it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

# GNU's OpenMP, in PyTorch's packages for Linux, counts turns of a loop; Intel's and Clang's take milliseconds.
SETTINGS = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
# Whoever has set one of these knows better, whichever OpenMP it is for.
CHOSEN = (*SETTINGS, "OMP_WAIT_POLICY", "KMP_LIBRARY")


def wait_asleep(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Have OpenMP's threads sleep soon where they wait; whether that was set. It was not where the user has chosen, or where PyTorch is
    loaded already, which would not look again."""
    if "torch" in sys.modules or any(name in environment for name in CHOSEN):
        return False
    environment.update(SETTINGS)
    return True
