"""Giving freed memory back to the system."""

import ctypes
import functools
from collections.abc import Callable

import torch


def release_free_memory(device: torch.device) -> None:
    """Return to the system what the C library keeps of freed tensors on the CPU; does nothing elsewhere, or with another C library.

    The C library of Linux keeps freed blocks below its newest ones. Where long-lived tensors are made between short-lived ones, as the
    outputs of segments are, what it keeps grows with their number.
    """
    trim = _trim()
    if device.type == "cpu" and trim is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return None
