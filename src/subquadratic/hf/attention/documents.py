"""Packed documents as rows of a padded batch, for attention that knows no documents, and what it gives back in their places.

Axes: B batch, D documents of all rows, H heads, N length, L the longest document.
"""

from collections.abc import Callable

import torch
from torch import Tensor


@torch.compiler.disable(recursive=True)
def by_document(attend: Callable[..., Tensor], tensors: tuple[Tensor, Tensor, Tensor], documents: Tensor, real: Tensor | None) -> Tensor:
    """``attend(queries, keys, values, mask)`` of each document alone.

    Args:
        attend: takes three (D, H, L, .) and a mask (D, L) bool, and gives (D, H, L, .).
        tensors: queries, keys and values, (B, H, N, .), whose heads may differ in number.
        documents: (B, N), equal where two neighbours belong to one document.
        real: (B, N) bool, True = a real token; None: all are.

    Returns:
        (B, H, N, .), zero at padded positions.

    Raises:
        NotImplementedError: while compiling with ``fullgraph=True``: how many documents there are is not known then.
    """
    rows, places = _places(documents)
    batch, length = documents.shape
    count, longest = _sizes(rows, places)
    flat = rows * longest + places  # (B N,)
    mask = torch.zeros(count * longest, dtype=torch.bool, device=flat.device)
    mask[flat] = True if real is None else real.flatten()
    spread = [_spread(tensor, flat, count, longest) for tensor in tensors]
    output = attend(*spread, mask.unflatten(0, (count, longest)))  # (D, H, L, .)
    back = output.transpose(1, 2).flatten(0, 1)[flat].unflatten(0, (batch, length)).transpose(1, 2)
    return back if real is None else back.masked_fill(~real[:, None, :, None], 0.0)


def _places(documents: Tensor) -> tuple[Tensor, Tensor]:
    """(B N,) each: the number of a position's document among those of all rows, and its place in it."""
    begins = torch.nn.functional.pad(documents.diff(dim=-1) != 0, (1, 0), value=True).flatten()
    places = torch.arange(len(begins), device=begins.device)
    first = torch.where(begins, places, 0).cummax(dim=0).values
    return begins.cumsum(dim=0) - 1, places - first


def _sizes(rows: Tensor, places: Tensor) -> tuple[int, int]:
    return int(rows[-1]) + 1, int(places.max()) + 1


def _spread(tensor: Tensor, flat: Tensor, count: int, longest: int) -> Tensor:
    """(B, H, N, .) to (D, H, L, .), zeros elsewhere."""
    lines = tensor.transpose(1, 2).flatten(0, 1)
    return lines.new_zeros(count * longest, *lines.shape[1:]).index_copy(0, flat, lines).unflatten(0, (count, longest)).transpose(1, 2)
