"""Attention within a window of the sequence, at cost O(N W).

Two shapes of window. Blocks (local heads of the Performer): the sequence is cut into blocks of W, and a position sees its own block and
the one before (also the one after, when bidirectional). Sliding (``sliding=True``): a position sees the W tokens that end with itself
(W - 1 to each side, when bidirectional).

Axes: B batch, H heads, N length, K head width, W window, G blocks.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .padding import pack, pack_left, unpack
from .softmax_attention import softmax_attention
from .state import State, state


@state
class WindowState(State):
    """The keys and values of the last 2 W real tokens, the latest at the end."""

    keys: Tensor  # (B, H, 2 W, K)
    values: Tensor  # (B, H, 2 W, K)
    seen: Tensor  # (B,) int64, real tokens so far


def empty_window(
    batch: int, heads: int, window: int, width: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> WindowState:
    """Nothing seen yet."""
    zeros = torch.zeros(batch, heads, 2 * window, width, device=device, dtype=dtype)
    return WindowState(zeros, zeros.clone(), torch.zeros(batch, dtype=torch.int64, device=device))


def window_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    window: int,
    causal: bool,
    sliding: bool = False,
    mask: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention of each position to the window around it.

    Args:
        queries, keys, values: (B, H, N, K).
        window: W.
        causal: no position after a query is seen.
        sliding: a window that moves with the position, instead of blocks.
        mask: (B, N) bool, True = real token. Windows count real tokens only.
        dropout: of the weights; 0 outside training.

    Returns:
        (B, H, N, K); zeros for padded positions.
    """
    if mask is not None:
        order, packed = pack_left(mask)
        queries, keys, values = (_pack_heads(tensor, order) for tensor in (queries, keys, values))
        output = _blocks(queries, keys, values, window, causal, sliding, packed, dropout)
        return _unpack_heads(output.masked_fill(~packed[:, None, :, None], 0.0), order)
    return _blocks(queries, keys, values, window, causal, sliding, None, dropout)


def _blocks(
    queries: Tensor, keys: Tensor, values: Tensor, window: int, causal: bool, sliding: bool, mask: Tensor | None, dropout: float
) -> Tensor:
    batch, heads, length, _width = queries.shape
    padding = -length % window
    queries, keys, values = (F.pad(tensor, (0, 0, 0, padding)).unflatten(2, (-1, window)) for tensor in (queries, keys, values))
    blocks = queries.shape[2]
    places = torch.arange(blocks * window, device=queries.device).unflatten(0, (blocks, window))
    real = places < length if mask is None else F.pad(mask, (0, padding)).unflatten(1, (blocks, window))[:, None]  # (G, W) or (B, 1, G, W)
    sides = (1, 0) if causal else (1, 1)
    keys, values = (_look_around(tensor, *sides, dim=2) for tensor in (keys, values))  # (B, H, G, 2 W or 3 W, K)
    key_places = _look_around(places, *sides, dim=0, fill=-(10**9))  # a place beyond either end is nobody's neighbour
    allowed = _look_around(real, *sides, dim=real.dim() - 2)[..., None, :] & _near(
        places[..., :, None], key_places[..., None, :], window, causal, sliding
    )
    allowed = allowed.expand(batch, heads, -1, -1, -1) if allowed.dim() == 5 else allowed.expand(1, heads, -1, -1, -1)
    output = softmax_attention(
        queries.flatten(1, 2), keys.flatten(1, 2), values.flatten(1, 2), allowed=allowed.flatten(1, 2), dropout=dropout
    )  # blocks as heads
    return output.unflatten(1, (heads, blocks)).flatten(2, 3)[..., :length, :]


def extend_window_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    state: WindowState,
    *,
    sliding: bool = False,
    mask: Tensor | None = None,
    dropout: float = 0.0,
) -> tuple[Tensor, WindowState]:
    """Causal :func:`window_attention` of the next piece, in steps of W positions, with the window before it in ``state``."""
    window = state.keys.shape[2] // 2
    batch, _, length, _ = queries.shape
    if mask is None:
        order, packed = None, torch.ones(batch, length, dtype=torch.bool, device=queries.device)
    else:
        order, packed = pack_left(mask)
        queries, keys, values = (_pack_heads(tensor, order) for tensor in (queries, keys, values))
    keys = torch.cat((state.keys.to(keys.dtype), keys), dim=2)  # the last 2 W, then this piece: all real ones in one run
    values = torch.cat((state.values.to(values.dtype), values), dim=2)
    places = torch.arange(-2 * window, length, device=queries.device) + state.seen[:, None]  # (B, 2 W + N)
    real = (places >= 0) & F.pad(packed, (2 * window, 0), value=True)

    outputs = []
    for start in range(0, length, window):
        stop = min(start + window, length)
        run = slice(start, stop + 2 * window)
        near = _near(places[:, start + 2 * window : stop + 2 * window, None], places[:, None, run], window, True, sliding)
        allowed = (near & real[:, None, run])[:, None]
        outputs.append(softmax_attention(queries[:, :, start:stop], keys[:, :, run], values[:, :, run], allowed=allowed, dropout=dropout))
    output = torch.cat(outputs, dim=2)
    added = packed.sum(dim=1)
    if order is not None:
        output = _unpack_heads(output.masked_fill(~packed[:, None, :, None], 0.0), order)
    keep = (added[:, None] + torch.arange(2 * window, device=queries.device))[:, None, :, None]
    keys, values = (tensor.gather(2, keep.expand(-1, tensor.shape[1], -1, tensor.shape[3])) for tensor in (keys, values))
    return output, WindowState(keys, values, state.seen + added)


def _near(query_places: Tensor, key_places: Tensor, window: int, causal: bool, sliding: bool) -> Tensor:
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


def _pack_heads(tensor: Tensor, order: Tensor) -> Tensor:
    return pack(tensor.transpose(1, 2).flatten(2), order).unflatten(2, (tensor.shape[1], -1)).transpose(1, 2)


def _unpack_heads(tensor: Tensor, order: Tensor) -> Tensor:
    return unpack(tensor.transpose(1, 2).flatten(2), order).unflatten(2, (tensor.shape[1], -1)).transpose(1, 2)


def window_allowed_reference(length: int, window: int, causal: bool, sliding: bool) -> Tensor:
    """(N, N) bool: who sees whom, pair by pair. The oracle of the tests, with ``softmax_attention_reference``."""
    rows = []
    for i in range(length):
        if sliding:
            rows.append([(0 <= i - j < window) if causal else abs(i - j) < window for j in range(length)])
        else:
            rows.append(
                [(j <= i and i // window - j // window <= 1) if causal else abs(i // window - j // window) <= 1 for j in range(length)]
            )
    return torch.tensor(rows)
