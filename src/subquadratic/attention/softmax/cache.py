"""A growing sequence of keys or values, one tensor after each token, mostly without a copy.

Axes: S length so far, N new positions.
"""

import threading
import weakref

import torch
from torch import Tensor

from ...core.backend import is_traced
from ...core.tracing import in_one_call


class _Spare:
    """Places to spare at the end of an axis of a storage, and how many are taken: only who takes the next ones may write there."""

    def __init__(self, whole: Tensor, dim: int, taken: int):
        self.shape, self.strides, self._dim, self._taken = whole.shape, whole.stride(), dim, taken
        self._lock = threading.Lock()

    def takes(self, start: int, stop: int) -> bool:
        """Whether places ``start`` to ``stop`` were free, and are now the caller's."""
        with self._lock:
            free = self._taken == start and stop <= self.shape[self._dim]
            self._taken = stop if free else self._taken
        return free


class _Spares:
    """The spare places of each tensor that `append` gave, and where the tensor begins there, for as long as the tensor lives.

    Not a dictionary with weak keys: their callbacks are Python code, and a Ctrl-C that arrives in one is swallowed. Entries of tensors that
    are gone hold no storage, and are looked for when their number may have doubled.
    """

    def __init__(self) -> None:
        self._entries: dict[int, tuple[weakref.ref[Tensor], _Spare, int]] = {}
        self._limit = 256

    def find(self, tensor: Tensor) -> tuple[_Spare | None, int]:
        entry = self._entries.get(id(tensor))
        return (None, 0) if entry is None or entry[0]() is not tensor else entry[1:]

    def keep(self, tensor: Tensor, spare: _Spare, start: int) -> None:
        self._entries[id(tensor)] = (weakref.ref(tensor), spare, start)
        if len(self._entries) > self._limit:
            for key, entry in list(self._entries.items()):
                if entry[0]() is None and self._entries.get(key) is entry:
                    self._entries.pop(key, None)
            self._limit = max(256, 2 * len(self._entries))


_SPARES = _Spares()


@in_one_call
def append(past: Tensor, new: Tensor, *, drop: int = 0, dim: int = 2) -> Tensor:
    """``past`` and ``new`` one after the other, without the first ``drop`` of ``past``.

    Copies ``past`` only now and then, if it came from here: what is appended goes into spare places behind it. ``past`` itself never
    changes, and of several that go on from one ``past`` the first takes the places, the others begin a copy. With gradients, or where
    operations are traced, simply ``torch.cat``.

    Args:
        past: (..., S, ...).
        new: (..., N, ...).
        drop: at most S.
        dim: the axis of S and N.

    Returns:
        (..., S - drop + N, ...) in the dtype of ``new``.
    """
    length, added = past.shape[dim], new.shape[dim]
    if past.dtype != new.dtype or type(new) is not Tensor or torch.is_grad_enabled() or is_traced():
        return torch.cat((past.narrow(dim, drop, length - drop).to(new.dtype), new), dim=dim)
    spare, start = _SPARES.find(past)
    stop = start + length
    writable = past.is_inference() == torch.is_inference_mode_enabled()  # tensors of inference mode may not be written from outside
    if spare is not None and writable and spare.takes(stop, stop + added):
        whole = past.as_strided(spare.shape, spare.strides, 0)
        start += drop
    else:
        start, stop = 0, length - drop
        more = max(stop // 2, 64) if added == 1 else 0  # single tokens come in numbers
        shape = list(past.shape)
        shape[dim] = stop + added + more
        whole = new.new_empty(shape)
        spare = _Spare(whole, dim, stop + added)
        whole.narrow(dim, 0, stop).copy_(past.narrow(dim, drop, length - drop))
    whole.narrow(dim, stop, added).copy_(new)
    grown = whole.narrow(dim, start, stop + added - start)
    _SPARES.keep(grown, spare, start)
    return grown
