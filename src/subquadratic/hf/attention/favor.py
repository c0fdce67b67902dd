"""FAVOR+ (arXiv 2009.14794) for models of transformers, bidirectional and causal.

Axes: B batch, H heads of queries, J heads of keys, N length (queries), S length (keys), K head width, M features.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ...attention.favor.documents import causal_favor_by_document
from ...attention.favor.op import causal_favor, summarise_favor
from ...attention.favor.sharp import favor_attention
from ...attention.favor.state import with_one_maximum
from ...core.backend import is_traced
from .documents import by_document
from .heads import grouped, repeated, ungrouped
from .modules import is_cross, layer_of
from .options import AttentionOptions
from .projections import projection
from .remembered import keep, recall
from .sight import Sight


def favor(module: nn.Module, options: AttentionOptions, queries: Tensor, keys: Tensor, values: Tensor, sight: Sight) -> Tensor:
    """Attention by random features.

    Args:
        module: its ``layer_idx``, if it has one, picks the projection.
        options: features and seed.
        queries: (B, H, N, K), scaled for scores of q . k / sqrt(K).
        keys, values: (B, J, S, K), (B, J, S, any width).
        sight: who may see whom; without a window.

    Returns:
        (B, H, N, value width); zeros for a query that sees no key.

    Cost O((N + S) M K) a head. Over a growing cache a token costs O(S K + M K), or O(S M K) where the
    summary that the token before left does not hold (`remembered.py`).
    """
    if sight.documents is None:
        return _attend(module, options, queries, keys, values, sight)
    if sight.causal and is_traced():
        heads, drawn = queries.shape[1], _projection(module, options, queries)
        return causal_favor_by_document(queries, repeated(keys, heads), repeated(values, heads), drawn, sight.documents, sight.real)

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return _attend(module, options, q, k, v, Sight(sight.causal, real=mask))

    return by_document(attend, (queries, keys, values), sight.documents, sight.real)


def _projection(module: nn.Module, options: AttentionOptions, queries: Tensor) -> Tensor:
    return projection(options.features, queries.shape[-1], options.orthogonal_scaling, options.seed, layer_of(module), queries.device)


def _attend(module: nn.Module, options: AttentionOptions, queries: Tensor, keys: Tensor, values: Tensor, sight: Sight) -> Tensor:
    heads, length, stretch, drawn = queries.shape[1], queries.shape[2], keys.shape[2], _projection(module, options, queries)
    growing = length < stretch and sight.start is None and getattr(module, "is_causal", True)
    if not sight.causal and not (growing and length == 1):
        return _bidirectional(options, queries, keys, values, drawn, sight.real, own=length == stretch and not is_cross(module))
    if length == stretch:
        return causal_favor(queries, repeated(keys, heads), repeated(values, heads), drawn, mask=sight.real)[0]
    return _over_cache(module, queries, keys, values, drawn, sight, growing)


def _bidirectional(
    options: AttentionOptions, queries: Tensor, keys: Tensor, values: Tensor, drawn: Tensor, real: Tensor | None, *, own: bool
) -> Tensor:
    """``own``: of a sequence to itself. Queries to another one may come one by one, and have no statistics that would stay the same."""
    heads, groups = queries.shape[1], queries.shape[1] // keys.shape[1]
    queries = grouped(queries, keys.shape[1])
    asking = real if real is None or not own else real.repeat(1, groups)
    ways: dict[str, Any] = {"estimator": options.estimator, "center": options.center, "balance": options.balance} if own else {}
    output = favor_attention(queries, keys, values, drawn, mask=real, query_mask=asking if own else None, **ways)
    return ungrouped(output, heads).to(values.dtype)


def _over_cache(module: nn.Module, queries: Tensor, keys: Tensor, values: Tensor, drawn: Tensor, sight: Sight, growing: bool) -> Tensor:
    """Causal attention of the last N positions; where the cache only grows, from the summary that the token before left."""
    heads, length, stretch = queries.shape[1], queries.shape[2], keys.shape[2]
    now = now_of(stretch, length, sight.start, keys.device)
    if growing:
        before = slice(0, stretch - length)
        past_keys, past_values = keys[:, :, before], values[:, :, before]
        past = None if sight.real is None else sight.real[:, before]
        state = recall(module, past_keys, past_values, past, drawn)
        new_keys, new_values = keys[:, :, before.stop :], values[:, :, before.stop :]
    else:
        state, past_keys, past_values = None, keys, values
        past = split_at(keys, length, sight.start)
        past = past if sight.real is None else sight.real & past
        new_keys, new_values = keys.index_select(2, now), values.index_select(2, now)
    if state is None:
        state = with_one_maximum(summarise_favor(past_keys, past_values, drawn, past)).map(lambda tensor: repeated(tensor, heads))
    mask = None if sight.real is None else sight.real.index_select(1, now)
    output, after = causal_favor(queries, repeated(new_keys, heads), repeated(new_values, heads), drawn, state, mask=mask)
    if growing:
        keep(module, keys, values, sight.real, drawn, after)
    return output


def now_of(stretch: int, length: int, start: Tensor | None, device: torch.device) -> Tensor:
    """(N,) the keys of the queries' own positions: the last N, or N from ``start`` on."""
    return torch.arange(length, device=device) + (stretch - length if start is None else start)


def split_at(keys: Tensor, length: int, start: Tensor | None) -> Tensor:
    """(B, S) bool, True = a key before the queries' own."""
    stretch = keys.shape[2]
    return (torch.arange(stretch, device=keys.device) < (stretch - length if start is None else start)).expand(keys.shape[0], -1)
