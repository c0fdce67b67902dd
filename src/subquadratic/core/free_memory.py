"""Freed memory: given back to the system, or kept for what comes next.

glibc, the C library of most Linux systems, keeps small freed blocks and returns large ones, of more than 32 MB, to the system at once: the
next tensor of that size is taken anew, page by page. Elsewhere both functions do nothing.
"""

import ctypes
import functools
from typing import Any

import torch

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of glibc's malloc.h


def release_free_memory(device: torch.device) -> None:
    """Return to the system what the C library keeps of freed tensors on the CPU.

    It keeps freed blocks below its newest ones. Where long-lived tensors are made between short-lived ones, as the outputs of segments are,
    what it keeps grows with their number.
    """
    library = _glibc()
    if device.type == "cpu" and library is not None:
        library.malloc_trim(0)


def keep_freed_memory() -> bool:
    """From now on keep freed memory of any size for what this process asks for next; whether that is possible here.

    For programs that do the same again and again with long sequences: a training step on 65,536 tokens takes its gigabytes from the system
    once instead of every time. What is kept gets a little fragmented: steps on 16,384 tokens had a peak 8 % higher, which then stayed. For
    the whole process, so whoever writes the program decides; ``subq train`` and ``subq bench`` do it.
    """
    library = _glibc()
    return library is not None and bool(library.mallopt(MMAP_MAX, 0)) and bool(library.mallopt(TRIM_THRESHOLD, -1))


@functools.cache
def _glibc() -> Any:
    try:
        library = ctypes.CDLL("libc.so.6")
        return library if library.malloc_trim and library.mallopt else None
    except (OSError, AttributeError):
        return None
