"""Attention within a window by PyTorch's operators alone: what compilers, every kind of derivative, and dropout take.

Axes: B batch, H heads, N length, K head width, W window, G blocks.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.chunking import cut, missing
from ...core.padding import pack, pack_left, unpack
from ...core.tracing import is_open
from .op import softmax_attention


def windows_by_formula(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    window: int,
    causal: bool,
    sliding: bool,
    mask: Tensor | None,
    dropout: float,
    documents: Tensor | None = None,
) -> Tensor:
    """In operations that autograd and compilers follow. ``documents``: (B, N) integers; a position sees those of its own number only."""
    if mask is None:
        return _plain_blocks(queries, keys, values, window, causal, sliding, None, dropout, documents)
    order, packed = pack_left(mask)
    queries, keys, values = (pack_heads(tensor, order, packed) for tensor in (queries, keys, values))
    documents = None if documents is None else documents.gather(1, order)
    output = _plain_blocks(queries, keys, values, window, causal, sliding, packed, dropout, documents)
    return unpack_heads(output.masked_fill(~packed[:, None, :, None], 0.0), order)


def _plain_blocks(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    window: int,
    causal: bool,
    sliding: bool,
    mask: Tensor | None,
    dropout: float,
    documents: Tensor | None,
) -> Tensor:
    """One masked call, with the keys of a block's neighbours beside its own. ``mask``: real tokens first."""
    batch, heads, length, _width = queries.shape
    padding = missing(length, window)
    queries, keys, values = (cut(F.pad(tensor, (0, 0, 0, padding)), window) for tensor in (queries, keys, values))
    blocks = queries.shape[2]
    places = cut(torch.arange(blocks * window, device=queries.device), window, dim=-1)
    # (G, W) or (B, 1, G, W)
    block_mask = places < length if mask is None else cut(F.pad(mask, (0, padding)), window, dim=-1)[:, None]
    sides = (1, 0) if causal else (1, 1)
    keys, values = (_look_around(tensor, *sides, dim=2) for tensor in (keys, values))  # (B, H, G, 2 W or 3 W, K)
    key_places = _look_around(places, *sides, dim=0, fill=-(10**9))  # a place beyond either end is nobody's neighbour
    allowed = _look_around(block_mask, *sides, dim=block_mask.dim() - 2)[..., None, :] & near(
        places[..., :, None], key_places[..., None, :], window, causal, sliding
    )
    if documents is not None:
        own = cut(F.pad(documents, (0, padding), value=-1), window, dim=-1)[:, None]  # (B, 1, G, W)
        allowed = allowed & (own[..., :, None] == _look_around(own, *sides, dim=2)[..., None, :])
    allowed = allowed.expand(batch, heads, -1, -1, -1) if allowed.dim() == 5 else allowed.expand(1, heads, -1, -1, -1)
    output = softmax_attention(
        queries.flatten(1, 2), keys.flatten(1, 2), values.flatten(1, 2), allowed=allowed.flatten(1, 2), dropout=dropout
    )  # blocks as heads
    output = output.unflatten(1, (heads, blocks)).flatten(2, 3)
    if is_open(length):  # a view of which an export would ask whether it is the whole
        return output.index_select(2, torch.arange(length, device=output.device))
    return output[..., :length, :]


def near(query_places: Tensor, key_places: Tensor, window: int, causal: bool, sliding: bool) -> Tensor:
    """Whether a query at one place sees a key at another."""
    if sliding:
        distance = query_places - key_places
        return (distance >= 0) & (distance < window) if causal else distance.abs() < window
    blocks = query_places.div(window, rounding_mode="floor") - key_places.div(window, rounding_mode="floor")
    return (blocks <= 1) & (key_places <= query_places) if causal else blocks.abs() <= 1


def _look_around(tensor: Tensor, before: int, after: int, *, dim: int, fill: float = 0) -> Tensor:
    """Each block with its neighbours: (..., G, W, ...) -> (..., G, (before + 1 + after) W, ...)."""
    blocks = tensor.shape[dim]
    edge = torch.full_like(tensor.narrow(dim, 0, 1), fill)
    line = torch.cat([edge] * before + [tensor] + [edge] * after, dim=dim)
    return torch.cat([line.narrow(dim, shift, blocks) for shift in range(before + 1 + after)], dim=dim + 1)


def pack_heads(tensor: Tensor, order: Tensor, packed: Tensor) -> Tensor:
    """Real tokens first, and zeros after them, whatever stood there."""
    rows = pack(tensor.transpose(1, 2).flatten(2), order).masked_fill(~packed[..., None], 0.0)
    return rows.unflatten(2, (tensor.shape[1], -1)).transpose(1, 2)


def unpack_heads(tensor: Tensor, order: Tensor) -> Tensor:
    return unpack(tensor.transpose(1, 2).flatten(2), order).unflatten(2, (tensor.shape[1], -1)).transpose(1, 2)
