"""Memory of large states, used again for the next token's.

A step of a stream reads one state and makes another of the same size. Where that is large the C library takes memory from the system and
gives it back every time, page by page, which may take longer than what the step computes (`free_memory.py`). Here it is kept for the step
after: never more of it than there is in use, so that all goes when the last state does.
"""

import mmap
import threading
import weakref

import torch
from torch import Tensor

LARGE = 1 << 18  # numbers of a float32 tensor: below, the C library keeps its memory

_lock = threading.RLock()  # a garbage collection may give memory back while this thread takes some
_used: dict[int, tuple[weakref.ref[memoryview], mmap.mmap]] = {}  # by the reference's identity
_free: list[mmap.mmap] = []


def empty_like(x: Tensor) -> Tensor:
    """As ``torch.empty_like`` of a contiguous float32 tensor on a CPU."""
    if x.numel() < LARGE or not hasattr(mmap, "MAP_ANONYMOUS"):
        return torch.empty_like(x)
    memory = _taken(x.numel() * x.element_size())
    view = memoryview(memory)
    lease = weakref.ref(view, _give_back)
    with _lock:
        _used[id(lease)] = lease, memory
    return torch.frombuffer(view, dtype=torch.float32, count=x.numel()).view(x.shape)  # the view lives as long as any tensor in it


def _taken(size: int) -> mmap.mmap:
    with _lock:
        for index, memory in enumerate(_free):
            if len(memory) == size:
                return _free.pop(index)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # not shared with a process that is forked


def _give_back(lease: weakref.ref[memoryview]) -> None:
    with _lock:
        _free.append(_used.pop(id(lease))[1])
        surplus = sum(map(len, _free)) - sum(len(memory) for _, memory in list(_used.values()))
        while surplus > 0:
            surplus -= len(_free.pop(0))
