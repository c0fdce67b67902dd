"""Buffers whose rows end together: row b holds in its last slots that row's last real tokens, in order.

A slot's position is the number of real tokens before it in the row; a negative position says that the slot is empty.

Axes: B batch, N length (queries), S length (keys), W width of a buffer.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.padding import order_right, zero_padding
from ..softmax.cache import append


def allowed_pairs(queries: Tensor, keys: Tensor) -> Tensor:
    """Who sees whom, by position: (B, N) and (B, S) int64 -> (B, 1, N, S) bool. An empty slot neither sees nor is seen."""
    return ((keys[:, None] <= queries[:, :, None]) & (keys[:, None] >= 0))[:, None]


def pack_right(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Order that brings each row's real tokens to its end, in their order.

    Args:
        mask: (B, N) bool, True = real token.

    Returns:
        ``order`` (B, N) int64, for :func:`subquadratic.core.padding.pack`, and the position of each slot after it,
        (B, N) int64, negative = empty.
    """
    return order_right(mask), slot_positions(mask.sum(dim=-1), mask.shape[1])


def slot_positions(stops: Tensor, width: int) -> Tensor:
    """Positions of a buffer of ``width`` slots that ends before ``stops``: (B,) -> (B, width), negative = empty."""
    return stops[:, None] - width + torch.arange(width, device=stops.device)


def last_slots(buffer: Tensor, width: int, stops: Tensor | None) -> Tensor:
    """The last ``width`` slots of a (B, W, D) buffer; zero where there is none, and with ``stops`` (B,) where it is empty."""
    buffer = F.pad(buffer[:, -width:], (0, 0, max(width - buffer.shape[1], 0), 0))
    return buffer if stops is None else zero_padding(buffer, slot_positions(stops, width) >= 0)


@dataclass(frozen=True)
class Splice:
    """Joins two buffers row by row: the newer one, and before it as much of the older one as is wanted."""

    kept: int  # slots taken from the end of the older buffer, then
    fresh: int  # slots taken from the end of the newer one; both only when all rows are alike
    order: Tensor | None  # (B, W) int64 into (older, newer), when they are not

    @classmethod
    def alike(cls, *, older: int, fresh: int, width: int) -> Self:
        """Every row: the last ``fresh`` slots of the newer buffer, filled up to ``width`` from the ``older`` slots
        before (fewer if they run out)."""
        fresh = min(fresh, width)
        return cls(min(width - fresh, older), fresh, None)

    @classmethod
    def ragged(cls, *, cuts: Tensor, stops: Tensor, older: int, newer: int, width: int) -> Self:
        """Row b: positions ``cuts[b]`` to ``stops[b]`` from the newer buffer, those before ``cuts[b]`` from the older
        one; (B,) int64 each."""
        positions = slot_positions(stops, width)
        from_newer = older + newer - (stops[:, None] - positions)
        from_older = older - (cuts[:, None] - positions)
        order = torch.where(positions >= cuts[:, None], from_newer, from_older)
        return cls(0, 0, order.clamp(0, older + newer - 1))  # what is clamped is an empty slot

    def __call__(self, older: Tensor, newer: Tensor, dim: int = 1) -> Tensor:
        """Buffers with their slots on axis ``dim`` -> one of width W."""
        if self.order is None:
            fresh = newer.narrow(dim, newer.shape[dim] - self.fresh, self.fresh)
            return append(older, fresh, drop=older.shape[dim] - self.kept, dim=dim)
        older = older.to(newer.dtype)
        joined = torch.cat((older, newer), dim=dim)
        shape = [self.order.shape[0]] + [1] * (joined.dim() - 1)
        shape[dim] = self.order.shape[1]
        sizes = list(joined.shape)
        sizes[dim] = self.order.shape[1]
        return joined.gather(dim, self.order.view(shape).expand(sizes))


@dataclass(frozen=True)
class Counts:
    """Real tokens per row before and after a piece of a stream; one entry for all rows when they are alike, which needs
    no look at the device."""

    before: list[int]
    after: list[int]
    ragged: bool
    device: torch.device

    @classmethod
    def of(cls, seen: Tensor, width: int, length: int, *, mask: Tensor | None, ragged: bool) -> Self:
        """``seen`` (B,) tokens before a piece of ``length`` with ``mask``; ``width`` is their number where rows are
        alike and not ``ragged``."""
        if mask is None and not ragged:
            return cls([width], [width + length], False, seen.device)
        before, new = seen.tolist(), [length] * len(seen) if mask is None else mask.sum(dim=-1).tolist()
        return cls(before, [old + fresh for old, fresh in zip(before, new, strict=True)], True, seen.device)

    def splice(self, cuts: list[int], stops: list[int], *, older: int, newer: int, width: int) -> Splice:
        """A :class:`Splice` to ``width`` slots at most: positions from ``cuts`` to ``stops`` come from the newer
        buffer."""
        if not self.ragged:
            return Splice.alike(older=older, fresh=stops[0] - cuts[0], width=width)
        first, last = torch.tensor([cuts, stops], device=self.device)
        return Splice.ragged(cuts=first, stops=last, older=older, newer=newer, width=width)
