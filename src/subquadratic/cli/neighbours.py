"""Sharing processors with other programs: OpenMP's threads wait for work asleep instead of spinning while others want the processors.

PyTorch's operators and the C kernels are divided among a team of OpenMP threads, which meet at the end of each. Who is there first waits
spinning, by default for milliseconds: where another program has the processor of the last one, the rest keep theirs busy with nothing,
and the system gives the last one no more of it. On two cores a training step next to one busy process took three times as long as with
threads that soon sleep. On an idle machine, threads that sleep cost up to a tenth.

With GNU's OpenMP, which PyTorch's packages for Linux include, `spinning.py` watches and decides as the process runs. Where it cannot, and
for Intel's and Clang's, the environment decides once: OpenMP reads it when PyTorch loads it, so the command line sets it before, and
processes that it starts inherit it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

from ..core.threads import SLEEPING, chosen_waiting, usable_cores
from . import spinning


def share_processors(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Have OpenMP's threads sleep where others want their processors; whether that was arranged. It was not where the user has chosen, or
    where PyTorch is loaded already, which would not look at the environment again."""
    if "torch" in sys.modules or chosen_waiting(environment):
        return False
    cores = usable_cores()
    watched = "GOMP_SPINCOUNT" not in environment and spinning.can_watch(cores)
    environment.update({name: value for name, value in SLEEPING.items() if not (watched and name == "GOMP_SPINCOUNT")})
    if watched:
        spinning.watch(cores)
    return True
