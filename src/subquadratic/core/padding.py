"""Padding masks as positions: a padded token is as if it were not there.

Axes: B batch, N length, D width. A mask is bool (B, N), True = real token; None means that every token is real.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import check_mask, check_sequence, require
from .tracing import in_one_call, may_look


def token_positions(mask: Tensor | None, length: int, seen: Tensor | None = None, *, device: torch.device | None = None) -> Tensor:
    """Position of each token among the real ones of its row.

    Args:
        mask: (B, N) bool or None.
        length: N, for ``mask=None``.
        seen: (B,) int64, real tokens that came before this piece; None = none.
        device: where, for ``mask=None`` and ``seen=None``.

    Returns:
        (N,) int64 when no row differs (no mask, nothing seen), else (B, N). A padded token gets the position of the real one before it,
        and 0 at least.
    """
    if mask is None:
        positions = torch.arange(length, device=device if seen is None else seen.device)
        return positions if seen is None else positions + seen[:, None]
    positions = (mask.cumsum(dim=-1) - 1).clamp_min(0)
    return positions if seen is None else positions + seen[:, None]


def check_positions(positions: Tensor, seen: Tensor | None, limit: int) -> None:
    """Raises ValueError for a position, (N,) of all rows or (B, N), that a model of ``limit`` positions does not have; ``seen`` tokens came
    before.

    Positions of each row are numbers, which are looked at only where one may be too large and where they may be looked at, and not while a
    CUDA graph is captured.
    """
    length = positions.shape[-1]
    if seen is None and length <= limit:
        return
    if positions.dim() == 1:  # all of 0 to N - 1
        _check_length(length, limit)
    elif may_look(positions):
        _look_at_positions(positions, limit)


@in_one_call
def _look_at_positions(positions: Tensor, limit: int) -> None:
    if positions.numel() and not (positions.is_cuda and torch.cuda.is_current_stream_capturing()):
        _check_length(int(positions.max()) + 1, limit)


def _check_length(longest: int, limit: int) -> None:
    require(
        longest <= limit,
        f"the sequence has {longest} positions, but max_length is {limit}: shorten it, or build the model with a greater max_length",
    )


def count_real(mask: Tensor | None, batch: int, length: int, device: torch.device) -> Tensor:
    """(B,) int64: real tokens per row."""
    if mask is None:
        return torch.full((batch,), length, dtype=torch.int64, device=device)
    return mask.sum(dim=-1)


def count_on(seen: Tensor, mask: Tensor | None, length: int) -> Tensor:
    """(B,) int64: real tokens per row after a further piece of N = ``length`` tokens with this mask."""
    return seen + (length if mask is None else mask.sum(dim=-1))


def zero_padding(x: Tensor, mask: Tensor | None) -> Tensor:
    """(B, N, D) with padded rows exactly zero, whatever they held (NaN included)."""
    return x if mask is None else x.masked_fill(~mask[..., None], 0.0)


def checked(x: Tensor, mask: Tensor | None, dim: int, *, name: str = "x", mask_name: str = "mask") -> Tensor:
    """``x`` (B, N, dim) with its padding blank, after checking that it and ``mask`` have the right shapes.

    Raises:
        ValueError: if they have not, in the words of ``name`` and ``mask_name``.
    """
    check_sequence(x, dim, name=name)
    check_mask(mask, x.shape[0], x.shape[1], name=mask_name)
    return zero_padding(x, mask)


def pack_left(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Order that brings each row's real tokens to its front, in their order.

    Returns:
        ``order`` (B, N) int64 and the mask after it (B, N), real tokens first. Undo with :func:`unpack`.
    """
    order = _false_first(~mask) if torch.compiler.is_exporting() else torch.argsort(mask.logical_not().to(torch.uint8), dim=-1, stable=True)
    return order, mask.gather(1, order)


def last_places(mask: Tensor, span: int) -> Tensor:
    """Where the last ``span`` real tokens of a stream stand, (B, span) int64, in a line of ``span`` tokens before and a piece (B, N)."""
    order, _ = pack_left(F.pad(mask, (span, 0), value=True))
    return order.gather(1, mask.sum(dim=1)[:, None] + torch.arange(span, device=mask.device))


def order_right(mask: Tensor) -> Tensor:
    """Order (B, N) int64 that brings each row's real tokens to its end, in their order."""
    return _false_first(mask) if torch.compiler.is_exporting() else torch.argsort(mask.to(torch.uint8), dim=-1, stable=True)


def _false_first(mask: Tensor) -> Tensor:
    """(B, N) int64, a stable sort of False and True, by counting: ONNX has no stable sort."""
    true, false = mask.cumsum(dim=1), (~mask).cumsum(dim=1)
    places = torch.where(mask, false[:, -1:] + true, false) - 1
    return torch.zeros_like(places).scatter(1, places, torch.arange(mask.shape[1], device=mask.device).expand_as(places))


def pack(x: Tensor, order: Tensor) -> Tensor:
    """(B, N, D) rearranged by ``order``."""
    return x.gather(1, order[..., None].expand(-1, -1, x.shape[-1]))


def unpack(x: Tensor, order: Tensor) -> Tensor:
    """Undo :func:`pack`."""
    return torch.zeros_like(x).scatter(1, order[..., None].expand(-1, -1, x.shape[-1]), x)
