"""A batch with padding as sequences of their own lengths: each row's real tokens alone, one row after the other.

A padded token is as if it were not there, so that gives the same outputs; and no work is done on padding, by operations that need no mask.
With long rows that is the faster way. On a CPU only: elsewhere a look at the mask would wait for
the device, and a row would not fill it.

Axes: B batch, N length, D width, L outputs of a row.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.backend import is_traced
from ..core.tracing import may_look
from ..layers.untouched import untouched_parts

LONG = 1 << 16  # numbers of a row's real tokens, on average: below, starting its operations takes longer than its padding does
FOREIGN = (nn.Dropout, nn.LayerNorm, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Row:
    """The real tokens of a row: from `first` up to `stop`, all of them, or those at `places`."""

    index: int
    first: int
    stop: int
    places: Tensor | None = None

    def of(self, x: Tensor) -> Tensor:
        """(B, N, ...) -> (1, real tokens, ...)."""
        row = x[self.index : self.index + 1]
        return row[:, self.first : self.stop] if self.places is None else row.index_select(1, self.places)

    def put_back(self, y: Tensor, length: int) -> Tensor:
        """(1, real tokens, D) -> (1, N, D), zero elsewhere."""
        if self.places is None:
            return F.pad(y, (0, 0, self.first, length - self.stop))
        return y.new_zeros(1, length, y.shape[2]).index_copy(1, self.places, y)


def needed(mask: Tensor | None) -> Tensor | None:
    """A mask (B, N); None where every token is real, as far as it may be looked at."""
    return None if mask is not None and _is_seen(mask) and bool(mask.all()) else mask


def rows_alone(model: nn.Module, x: Tensor, mask: Tensor | None) -> list[Row] | None:
    """The rows of (B, N, D) with a mask (B, N), where they are to be computed one by one; None: all at once.

    Whoever wraps, or listens to, a module inside ``model`` sees whole batches: then nothing is taken apart.
    """
    if mask is None or mask.numel() * x.shape[2] < LONG or not _is_seen(mask):
        return None
    counts: list[int] = mask.sum(dim=1).tolist()
    if sum(counts) * x.shape[2] < LONG * len(counts) or not is_quiet(model):
        return None
    positions = torch.arange(mask.shape[1])
    first = torch.where(mask, positions, mask.shape[1]).amin(dim=1).tolist()
    stop = (torch.where(mask, positions, -1).amax(dim=1) + 1).tolist()
    rows = []
    for index, (count, begin, end) in enumerate(zip(counts, first, stop, strict=True)):
        begin = min(begin, end)  # nothing is real
        places = None if end - begin == count else mask[index].nonzero()[:, 0]
        rows.append(Row(index, begin, end, places))
    return rows


def _is_seen(mask: Tensor) -> bool:
    return mask.is_cpu and not is_traced() and may_look(mask)


def is_quiet(model: nn.Module) -> bool:
    """Whether nothing is wrapped around a module in ``model``, which itself may be in anybody's hands."""
    return all(untouched_parts(part, *FOREIGN) is not None for part in model.children())


def each_alone(rows: list[Row], x: Tensor, run: Callable[[Row, Tensor], Tensor]) -> Tensor:
    """(B, N, D) -> (B, N, D): ``run`` makes (1, n, D) of a row's n real tokens; a row without any is zero."""
    length = x.shape[1]
    none = x.new_zeros(1, length, x.shape[2])
    return torch.cat([row.put_back(run(row, row.of(x)), length) if row.stop > row.first else none for row in rows])
