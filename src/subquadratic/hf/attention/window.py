"""Exact attention within a window, for models of transformers, and for layers that have a window of their own.

Axes: B batch, H heads of queries, J heads of keys, N length (queries), S length (keys), K head width, W window.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from ...attention.softmax.op import softmax_attention
from ...attention.softmax.window import window_attention
from ...attention.softmax.window_formula import windows_by_formula
from ...core.backend import is_traced
from ...core.padding import pack_left
from .documents import by_document
from .favor import now_of
from .heads import repeated
from .modules import is_cross
from .options import WINDOW, AttentionOptions
from .refusals import refuse
from .sight import Sight


def window(module: nn.Module, options: AttentionOptions, queries: Tensor, keys: Tensor, values: Tensor, sight: Sight) -> Tensor:
    """Attention of a query to the last W real tokens, or to W - 1 on each side.

    Args:
        module: for errors.
        options: W; a layer's own window holds if it is smaller.
        queries: (B, H, N, K), scaled for scores of q . k / sqrt(K).
        keys, values: (B, J, S, K), (B, J, S, any width).
        sight: who may see whom.

    Returns:
        (B, H, N, value width); zeros for padded queries.

    Raises:
        NotImplementedError: for attention to another sequence, whose positions are not those of the queries.

    Cost O(N W K) a head; of a cache, only the last N + W - 1 keys are read.
    """
    size = options.window if sight.window is None else min(options.window, sight.window)
    return windowed(module, queries, keys, values, sight, size, WINDOW)


def windowed(module: nn.Module, queries: Tensor, keys: Tensor, values: Tensor, sight: Sight, size: int, name: str) -> Tensor:
    """Attention within a window of ``size``, exact."""
    heads, length, stretch = queries.shape[1], queries.shape[2], keys.shape[2]
    if length != stretch:
        if not sight.causal and not (length == 1 and getattr(module, "is_causal", False)):
            raise refuse(name, module, f"attends from {length} positions to {stretch} of another sequence")
        return _over_cache(queries, keys, values, sight, size)
    if not sight.causal and is_cross(module):
        raise refuse(name, module, "attends to another sequence")
    keys, values = repeated(keys, heads), repeated(values, heads)
    if sight.documents is not None and is_traced():
        return windows_by_formula(queries, keys, values, size, sight.causal, True, sight.real, 0.0, sight.documents)
    if sight.documents is not None:

        def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
            return window_attention(q, k, v, window=size, causal=sight.causal, sliding=True, mask=mask)

        return by_document(attend, (queries, keys, values), sight.documents, sight.real)
    return window_attention(queries, keys, values, window=size, causal=sight.causal, sliding=True, mask=sight.real)


def _over_cache(queries: Tensor, keys: Tensor, values: Tensor, sight: Sight, size: int) -> Tensor:
    """Of the last N positions, causally."""
    heads, length, stretch = queries.shape[1], queries.shape[2], keys.shape[2]
    read = min(stretch, length + size - 1)
    if sight.real is None:
        keys, values = (repeated(tensor[:, :, -read:], heads) for tensor in (keys, values))
        if length == 1:
            return softmax_attention(queries, keys, values)
        queries = F.pad(queries, (0, 0, read - length, 0))
        return window_attention(queries, keys, values, window=size, causal=True, sliding=True)[:, :, -length:]
    # A row's real keys to the right; queries follow, each to the place of its own key.
    places, real = pack_right(sight.real)
    places, real = places[:, -read:], real[:, -read:]
    keys, values = (repeated(_moved(tensor, places), heads) for tensor in (keys, values))
    now = sight.real.index_select(1, now_of(stretch, length, sight.start, keys.device))  # (B, N)
    if length == 1:
        return softmax_attention(queries, keys, values, allowed=(real & now)[:, None, None])
    order, packed = pack_right(now)
    queries = F.pad(_moved(queries, order), (0, 0, read - length, 0))
    output = window_attention(queries, keys, values, window=size, causal=True, sliding=True, mask=real)[:, :, -length:]
    return _moved(output.masked_fill(~packed[:, None, :, None], 0.0), order.argsort(dim=-1))


def _moved(tensor: Tensor, order: Tensor) -> Tensor:
    """(B, H, N, .) with its positions in ``order``, (B, N)."""
    return tensor.gather(2, order[:, None, :, None].expand(-1, tensor.shape[1], -1, tensor.shape[3]))


def pack_right(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Order that brings each row's real tokens to its end, and the mask after it, as `pack_left` does to its front."""
    order, packed = pack_left(~mask)
    return order, ~packed
