"""Rows of a batch cut into segments at their own real tokens, yet computed side by side.

Row r has already ``phase`` tokens in its open segment, so its next token belongs in place ``phase`` of that segment. When rows differ, the
ones that are ahead begin with places that hold no new token; then all rows' segments begin in the same columns.

Axes: B batch, N length, D width, W columns.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ...core.padding import count_real, pack_left, zero_padding
from ...core.tracing import may_look


class Segments(NamedTuple):
    """Tokens in columns, real ones first in each row."""

    x: Tensor  # (B, W, D), zero where there is no token
    slot: int  # place of column 0 in the first segment
    mask: Tensor | None  # (B, W) bool, True = a token is there; None: all
    columns: Tensor | None  # (B, N) int64, where each token went; None: where it was
    end: Tensor | None  # (B,) int64, place after the row's last token, counted from the first segment's beginning; None: slot + W


def lay_out(x: Tensor, mask: Tensor | None, phase: Tensor | None, size: int) -> Segments:
    """Columns for (B, N, D) with ``mask`` (B, N) bool or None, and ``phase`` (B,) int64, less than ``size``; None: 0 in every row."""
    batch, length, _ = x.shape
    slot, ahead = 0, None
    if not batch:
        return Segments(x, slot, None, None, None)
    blind = torch.compiler.is_exporting()
    if phase is not None and blind:
        ahead = phase
    elif phase is not None:
        slot = int(phase.min())
        ahead = phase - slot if bool((phase != slot).any()) else None
    if mask is None and ahead is None:
        return Segments(x, slot, None, None, None)
    counts = count_real(mask, batch, length, x.device)
    if mask is None:
        mask = torch.ones(batch, length, dtype=torch.bool, device=x.device)
    if ahead is None:
        ahead = torch.zeros_like(counts)
    order, _ = pack_left(mask)
    ends = ahead + counts
    if blind:
        width = length if phase is None else length + size - 1
    else:
        width = int(ends.max()) if may_look(ends) or phase is not None else length
    rank = torch.arange(width, device=x.device) - ahead[:, None]
    filled = (rank >= 0) & (rank < counts[:, None])
    source = order.gather(1, rank.clamp(0, length - 1))
    grid = x.gather(1, source[..., None].expand(-1, -1, x.shape[-1]))
    columns = (mask.cumsum(dim=1) - 1 + ahead[:, None]).clamp(0, max(width - 1, 0))
    return Segments(zero_padding(grid, filled), slot, filled, columns, slot + ahead + counts)


def bring_back(y: Tensor, segments: Segments, mask: Tensor | None) -> Tensor:
    """Undo :func:`lay_out`: (B, W, D) -> (B, N, D), zero at padded positions."""
    if segments.columns is not None:
        y = y.gather(1, segments.columns[..., None].expand(-1, -1, y.shape[-1]))
    return zero_padding(y, mask)
