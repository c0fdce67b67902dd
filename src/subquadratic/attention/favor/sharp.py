"""FAVOR+ with centred, balanced and optimally spread features (`geometry.py`), as the ops compute it.

The ops know one exponent of a key, w.k - |k|^2 / 2. What is left of another one goes into a channel of its own that no feature projects,
r, as -r^2 / 2; the other channels are so small beside it that their squares vanish, and their projections as much larger. What belongs to
a feature alone is added to the summary's maxima where attention is bidirectional; where it is causal, and heads share the projection, it
is a channel of the queries for each head, which keys do not have.

Axes: B batch, H heads, N length (queries), S length (keys), K head width, M features.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.choices import check_estimator
from ...core.numerics import exact_dtype, no_autocast
from ...core.tracing import is_open
from .formula import zero_keys
from .geometry import Geometry, apply, combined, feature_bias, geometry_of, moments_of
from .op import causal_favor, read_favor, summarise_favor
from .state import FeatureState

SMALL = 2.0**-24  # what channels are times, and projections divided by: no rounding, and a square below that of what float64 rounds


class FixedGeometry(NamedTuple):
    """One that does not come from the sequence: for causal attention, and for contexts that are summarised before there are queries."""

    geometry: Geometry  # of each head: (H, ., .)
    bias: Tensor | None  # (H, M), its `feature_bias`


def favor_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    projection: Tensor,
    *,
    mask: Tensor | None = None,
    query_mask: Tensor | None = None,
    estimator: str = "positive",
    center: bool = False,
    balance: str | None = None,
    fixed: FixedGeometry | None = None,
) -> Tensor:
    """Bidirectional FAVOR+: weights that estimate softmax(q.k / sqrt(K)).

    Args:
        queries: (B, H, N, K).
        keys, values: (B, H, S, K).
        projection: (M, K) from :func:`~subquadratic.attention.favor.features.orthogonal_gaussian`, no gradient.
        mask: (B, S) bool, True = real key.
        query_mask: (B, N) bool, the queries that count in statistics; None: all, or ``mask`` where N = S.
        estimator: "positive" (Performer), "optimal" (arXiv 2205.15317), "dense" (arXiv 2302.00787).
        center: subtract the means of queries and of keys.
        balance: None, "channel" or "full".
        fixed: a geometry to take in place of that of these queries and keys; the three options before are then not asked.

    Returns:
        (B, H, N, K) in the dtype of ``queries``; zero where there is no key.

    Raises:
        ValueError: for an unknown option.

    Cost O((N + S) (M K + K^2)) a head, and O(K^3) for the statistics.
    """
    sharp = check_estimator(estimator=estimator, center=center, balance=balance)
    if fixed is None and not sharp:
        return read_favor(queries, summarise_favor(keys, values, projection, mask), projection)
    if fixed is not None:
        return read_fixed(queries, summarise_fixed(keys, values, projection, fixed, mask), projection, fixed)
    given, dtype = queries.dtype, exact_dtype(queries, keys, values)
    if query_mask is None and queries.shape[2] == keys.shape[2]:
        query_mask = mask
    with no_autocast(values):
        queries, keys = queries.to(dtype), keys.to(dtype)
        moments = moments_of(queries, query_mask), moments_of(keys, mask)
        geometry = geometry_of(*moments, estimator=estimator, center=center, balance=balance)
        wide = _widened(projection, dtype)
        summary = summarise_favor(_keys(keys, geometry), values.to(dtype), wide, mask)
        summary = _with_bias(summary, feature_bias(projection, geometry))
        return read_favor(_queries(queries, geometry), summary, wide).to(given)


def summarise_fixed(keys: Tensor, values: Tensor, projection: Tensor, fixed: FixedGeometry, mask: Tensor | None = None) -> FeatureState:
    """All that queries can ask of keys and values (B, H, S, K), for :func:`read_fixed`."""
    dtype = exact_dtype(keys, values)
    with no_autocast(values):
        inputs = _keys(keys.to(dtype), _in(fixed.geometry, dtype))
        summary = summarise_favor(inputs, values.to(dtype), _widened(projection, dtype), mask)
        return _with_bias(summary, None if fixed.bias is None else fixed.bias.to(dtype))


def read_fixed(queries: Tensor, summary: FeatureState, projection: Tensor, fixed: FixedGeometry) -> Tensor:
    """Queries (B, H, N, K) to a summary: (B, H, N, K)."""
    given, dtype = queries.dtype, exact_dtype(queries, summary.total)
    with no_autocast(queries):
        inputs = _queries(queries.to(dtype), _in(fixed.geometry, dtype))
        return read_favor(inputs, summary, _widened(projection, dtype)).to(given)


def causal_favor_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    projection: Tensor,
    fixed: FixedGeometry,
    state: FeatureState | None = None,
    *,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, FeatureState]:
    """Causal FAVOR+ of the next N positions in a fixed geometry; as :func:`~subquadratic.attention.favor.op.causal_favor` otherwise."""
    given, dtype = values.dtype, exact_dtype(queries, keys, values)
    with no_autocast(values):
        geometry, wide = _in(fixed.geometry, dtype), _widened(projection, dtype, fixed.bias)
        heads = 0 if fixed.bias is None else len(fixed.bias)
        q, k = _queries(queries.to(dtype), geometry, heads), _keys(keys.to(dtype), geometry, heads)
        if mask is not None:
            k = zero_keys(k, mask)
        output, after = causal_favor(q, k, values.to(dtype), wide, state, mask=mask, cu_seqlens=cu_seqlens)
    return output.to(given), after


def _in(geometry: Geometry, dtype: torch.dtype) -> Geometry:
    return Geometry(*(None if x is None else x.to(dtype) for x in geometry))


def _queries(x: Tensor, geometry: Geometry, heads: int = 0) -> Tensor:
    """(B, H, N, K), not yet times K^(-1/4), -> (B, H, N, K + 1), with channels of ``heads`` (B, H, N, K + 1 + H)."""
    width = x.shape[-1]
    scale, more = width**-0.25, (width + 1 + heads) ** 0.25  # the ops' own is that of their width
    x = x if geometry.query_mean is None else x - geometry.query_mean / scale
    x = _mapped(x, geometry.query_map, geometry.stretch, SMALL * scale * more, blank=1 + heads)
    return x + F.pad(torch.eye(heads, dtype=x.dtype, device=x.device)[:, None] * more, (width + 1, 0)) if heads else x


def _keys(x: Tensor, geometry: Geometry, heads: int = 0) -> Tensor:
    """As :func:`_queries`. The channel r is at least 1, where its root has a derivative: a constant of all exponents cancels."""
    width = x.shape[-1]
    scale, more = width**-0.25, (width + 1 + heads) ** 0.25
    x = x if geometry.key_mean is None else x - geometry.key_mean / scale
    # exp(c.k) of centred queries completes the square: c.k - |k|^2 / 2 = -|k - c|^2 / 2 + a constant
    rest = apply(x, geometry.key_map)
    rest = rest if geometry.query_mean is None else rest - apply(geometry.query_mean, geometry.query_map) / scale
    rest = (torch.linalg.vecdot(rest, rest)[..., None] * (scale * more) ** 2 + more**2).sqrt()
    x = _mapped(x, geometry.key_map, geometry.stretch, SMALL * scale * more)
    return F.pad(torch.cat((x, rest), dim=-1), (0, heads)) if heads else torch.cat((x, rest), dim=-1)


def _mapped(x: Tensor, first: Tensor | None, second: Tensor | None, factor: float, *, blank: int = 0) -> Tensor:
    """Both maps and a factor, and channels of zeros behind: one matrix for many positions, one map after the other for few."""
    if not is_open(x.shape[2]) and x.shape[2] < x.shape[3]:
        return F.pad(apply(apply(x, first), second) * factor, (0, blank))
    return x @ F.pad(combined(first, second, x) * factor, (0, blank))


def _widened(projection: Tensor, dtype: torch.dtype, bias: Tensor | None = None) -> Tensor:
    """(M, K) -> (M, K + 1), and with biases (H, M) of heads (M, K + 1 + H)."""
    wide = F.pad(projection.to(dtype) / SMALL, (0, 1))
    return wide if bias is None else torch.cat((wide, bias.to(dtype).T), dim=-1)


def _with_bias(summary: FeatureState, bias: Tensor | None) -> FeatureState:
    """Each feature's weight times exp(bias), (B, H, M) or (H, M). Maxima are constants for autograd: its gradient goes through the sums."""
    if bias is None:
        return summary
    constant = bias.detach()
    one = (bias - constant).exp()
    maximum = summary.maximum + constant
    return FeatureState(summary.total * one[..., None], summary.weight * one, maximum)
