"""OpenMP's threads spin on an idle machine and sleep beside other programs, as it turns out while they run.

GNU's OpenMP reads once, when it is loaded, how long a thread that waits for others spins: some milliseconds unless told otherwise. No call
changes that. But it spins a hundred turns only, some microseconds, while it has more threads than the process has processors (`do_spin` of
its `config/linux/wait.h`). So a second team, of which every thread sleeps, has all others wait asleep; dissolved, they spin again. What is
computed, and by how many threads, stays the same.

Whether another program wants the processors is what the kernel counts for each thread: the time in which it could have run and did not
(`/proc/self/task/*/schedstat`, second field).
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

INTERVAL = 0.2  # seconds between two looks
CONTENDED = 0.08  # seconds waited for a processor per second, by all threads, from which on they sleep
FREE = 0.03  # and up to which they spin again,
PATIENCE = 10  # after so many looks
TASKS = Path("/proc/self/task")
MAPS = Path("/proc/self/maps")
LARGEST = 64  # processors up to which a second team, which needs a thread more than there are, is worth having


def can_watch(cores: int) -> bool:
    """Whether the kernel counts what threads wait for, and a second team is small enough."""
    return cores <= LARGEST and Path("/proc/self/schedstat").is_file()


def watch(cores: int) -> None:
    """From now on, beside what this process does: see above. ``cores``: processors that this process may run on."""
    threading.Thread(target=_watch, args=(cores,), name="subq-spinning", daemon=True).start()


class SleepingTeam:
    """A second team of OpenMP threads, asleep; it belongs to a thread of its own, and is dissolved when that one ends."""

    def __init__(self, library: ctypes.CDLL, cores: int) -> None:
        self._library, self._threads = library, cores + 1
        self._over = threading.Event()
        self._holder: threading.Thread | None = None

    @property
    def exists(self) -> bool:
        return self._holder is not None

    def form(self) -> None:
        self._over.clear()
        self._holder = threading.Thread(target=self._hold, name="subq-sleeping-team", daemon=True)
        self._holder.start()

    def dissolve(self) -> None:
        assert self._holder is not None
        self._over.set()
        self._holder.join()
        self._holder = None

    def _hold(self) -> None:
        nothing = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p)  # what each thread of the team runs, once
        self._library.GOMP_parallel(nothing, None, ctypes.c_uint(self._threads), ctypes.c_uint(0))
        self._over.wait()


def _watch(cores: int) -> None:
    library = _loaded_openmp()
    if library is None:
        return
    team, waited = SleepingTeam(library, cores), _Waited()
    adapt(team, waited.share, lambda: time.sleep(INTERVAL))


def adapt(team: SleepingTeam, share: Callable[[], float], pause: Callable[[], None]) -> None:
    """Forms the team while ``share()`` says that processors are contended, and dissolves it when they have been free for a while."""
    free = 0
    while True:
        pause()
        waiting = share()
        if not team.exists:
            if waiting >= CONTENDED:
                team.form()
                free = 0
            continue
        free = free + 1 if waiting <= FREE else 0
        if free >= PATIENCE:
            team.dissolve()


class _Waited:
    """Seconds per second that this process's threads have waited for a processor since it was last asked."""

    def __init__(self) -> None:
        self._before: dict[str, int] = {}
        self._asked = time.monotonic()
        self.share()

    def share(self) -> float:
        now, asked, before = time.monotonic(), self._asked, self._before
        self._asked, self._before = now, _run_delays()
        waited = sum(delay - before.get(thread, delay) for thread, delay in self._before.items())
        return waited / 1e9 / max(now - asked, 1e-3)


def _run_delays() -> dict[str, int]:
    """Nanoseconds that each thread has waited for a processor so far."""
    delays = {}
    for task in TASKS.iterdir():
        try:
            delays[task.name] = int((task / "schedstat").read_text().split()[1])
        except (OSError, IndexError, ValueError):  # it has ended
            continue
    return delays


def _loaded_openmp() -> ctypes.CDLL | None:
    """GNU's OpenMP as PyTorch has loaded it, once it has; None if PyTorch is here and uses another."""
    while True:
        time.sleep(INTERVAL)
        complete = hasattr(sys.modules.get("torch"), "compile")  # defined late in torch/__init__.py
        if complete:
            paths = {line.rpartition(" ")[2] for line in MAPS.read_text().splitlines()}
            found = [path for path in sorted(paths) if path.startswith("/") and Path(path).name.startswith("libgomp")]
            own = [path for path in found if "torch" in Path(path).parent.parts or "torch.libs" in path]  # scikit-learn brings another
            return ctypes.CDLL((own or found)[0]) if found else None
