"""Freed memory is kept or given back as asked. In processes of their own: it concerns the whole process."""

import subprocess
import sys

import pytest

LINES = """
import resource, torch
from subquadratic.core import free_memory
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use():
    return float(torch.ones(1 << 24)[0])  # 64 MB
use()
before = faults()
for _ in range(5):
    use()
print(faults() - before)
kept = free_memory.keep_freed_memory()
for _ in range(20):  # smaller things take their places among the large ones
    use()
before = faults()
for _ in range(5):
    use()
print(faults() - before)
full = resident()
free_memory.release_free_memory(torch.device("cpu"))
print(full - resident(), kept)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's own numbers")
def test_kept_until_it_is_released() -> None:
    done = subprocess.run([sys.executable, "-c", LINES], capture_output=True, text=True, timeout=120, check=True)
    plain, kept, *released = done.stdout.split()
    if released[1] == "False":
        pytest.skip("another C library than glibc")
    assert int(plain) > 5 * 1000  # pages
    assert int(kept) < int(plain) / 3
    assert int(released[0]) > 32 << 20


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from subquadratic.core import free_memory

    monkeypatch.setattr(free_memory, "_glibc", lambda: None)
    assert free_memory.keep_freed_memory() is False
    free_memory.release_free_memory(torch.device("cpu"))
