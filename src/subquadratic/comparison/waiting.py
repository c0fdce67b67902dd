"""How long a process waited for a processor that other programs had: what makes seconds unequal on a busy machine."""

from __future__ import annotations

from pathlib import Path

SCHEDULER = Path("/proc/self/schedstat")  # nanoseconds that the main thread computed, nanoseconds that it waited, time slices


def waited_seconds() -> float | None:
    """Seconds, since this process began, in which its main thread was ready to compute and did not; None where the system does not tell."""
    try:
        computed, waited, *_ = map(int, SCHEDULER.read_text().split())
    except (OSError, ValueError):
        return None
    return waited / 1e9 if computed else None
