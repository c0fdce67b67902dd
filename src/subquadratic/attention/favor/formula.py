"""Linear attention over positive features, with the normaliser and a stabiliser inside: the engine of FAVOR+.

Performer (arXiv 2009.14794), eq. 4, and its causal form (appendix B.1), in a shape that is exactly causal and streams. With a feature k_t
given as k'_t exp(m_t), m_t the running maximum of the exponents, causal attention is a gated recurrence in which nothing overflows:

    S_t = exp(m_{t-1} - m_t) S_{t-1} + k'_t v_t^T,   z_t likewise,   o_t = q'_t S_t / q'_t z_t

and a maximum over the past never sees the future. Computed chunk by chunk: a C x C matmul inside a chunk, the summary (S, z, m) between
chunks.

Axes: B batch, H heads, N length (queries), S length (keys), K head width, M features, G chunks, C chunk length.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.causality import keep_out
from ...core.chunking import chunk_of, cut, missing, repeat_last, running_totals
from ...core.errors import require, require_positive
from ...core.numerics import EMPTY, NOTHING, exact_dtype, no_autocast, running_maximum
from ...core.tracing import is_open
from .state import EpsilonState, FeatureState, empty_epsilon, empty_features, unscaled


def normalise(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, and exactly zero (gradient too) where the denominator says that there was no key."""
    some = ~(denominator.abs() <= NOTHING)  # features of a free kernel may be negative; NaN stays
    return torch.where(some, numerator / torch.where(some, denominator, 1.0), 0.0)


def summarise_features(
    keys: Tensor, values: Tensor, mask: Tensor | None = None, *, exponents: bool = True, maximum: Tensor | None = None
) -> FeatureState:
    """Everything that any query can ask of a whole set of keys and values.

    Args:
        keys: (B, H, S, M) logarithms of the key features, or the features themselves with ``exponents=False``.
        values: (B, H, S, K).
        mask: (B, S) bool, True = real token.
        maximum: stabiliser (B, H, 1 or M), constant for autograd; None takes each feature's own maximum, with which no normaliser can
            underflow.
    """
    values = zero_keys(values, mask)
    if exponents:
        if mask is not None:
            keys = keys.masked_fill(~mask[:, None, :, None], -torch.inf)
        if maximum is None:
            maximum = keys.detach().amax(dim=-2)
        maximum = maximum.clamp_min(EMPTY)
        keys = (keys - maximum[..., None, :]).exp()
    else:
        keys = zero_keys(keys, mask)
        maximum = torch.zeros_like(keys[..., 0, :1])
    return FeatureState(keys.transpose(-1, -2) @ values, keys.sum(dim=-2), maximum)


def zero_keys(tensor: Tensor, mask: Tensor | None) -> Tensor:
    """(B, H, S, .) with padded rows zero."""
    return tensor if mask is None else tensor.masked_fill(~mask[:, None, :, None], 0.0)


def read_features(log_queries: Tensor, summary: FeatureState, *, feature_epsilon: float = 0.0) -> Tensor:
    """Linear attention of queries to a summary (bidirectional and cross-attention).

    Args:
        log_queries: (B, H, N, M) logarithms of the query features.
        summary: from :func:`summarise_features`.
        feature_epsilon: added to every feature of queries and keys, relative to their maximum. Needs an :class:`EpsilonState` with one
            maximum for all features.

    Returns:
        (B, H, N, K); zero where there is no key.

    Raises:
        ValueError: if ``summary`` lacks what ``feature_epsilon`` reads.
    """
    if summary.maximum.shape[-1] > 1:
        log_queries = log_queries + summary.maximum[..., None, :]
    queries = (log_queries - log_queries.detach().amax(dim=-1, keepdim=True)).exp()
    return read_with_queries(queries + feature_epsilon, summary, feature_epsilon=feature_epsilon)


def read_with_queries(queries: Tensor, summary: FeatureState, *, feature_epsilon: float = 0.0) -> Tensor:
    """As :func:`read_features`, for query features that are already exponentiated: (B, H, N, M) -> (B, H, N, K)."""
    numerator = queries @ summary.total
    denominator = queries @ summary.weight[..., None]
    if feature_epsilon:
        summed, mass = _with_sums(summary), queries.sum(dim=-1, keepdim=True)
        numerator = numerator + feature_epsilon * mass * summed.values[..., None, :]
        denominator = denominator + feature_epsilon * summed.count[..., None, :] * mass
    return normalise(numerator, denominator)


def causal_linear_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    state: FeatureState | None = None,
    *,
    mask: Tensor | None = None,
    exponents: bool = True,
    candidates: Tensor | None = None,
    feature_epsilon: float = 0.0,
    denominator_epsilon: float = 0.0,
    chunk: int = 128,
) -> tuple[Tensor, FeatureState]:
    """Causal linear attention with a running-maximum stabiliser.

    Args:
        queries: (B, H, N, M) query features >= 0, scaled per row as one likes (the scale cancels).
        keys: (B, H, N, M) logarithms of the key features, or the features themselves with ``exponents=False`` (then nothing is rescaled).
        values: (B, H, N, K).
        state: what came before, an :class:`EpsilonState` with ``feature_epsilon``; None at the start of a sequence.
        mask: (B, N) bool, True = real token.
        candidates: (B, H, N) what the running maximum is taken of; None: each key's largest exponent.
        feature_epsilon: added to each key feature, relative to exp(running maximum) (the caller adds it to the queries).
        denominator_epsilon: times the sum of the query features, times exp(-running maximum), added to the normaliser.
        chunk: positions per C x C matmul. Changes speed, not the result.

    Returns:
        (B, H, N, K) in the dtype of ``values`` (zeros where no real key has come yet), and the summary after the last token.

    Raises:
        ValueError: if shapes disagree, ``state`` lacks what ``feature_epsilon`` reads, or ``chunk`` < 1.

    Cost O(N M K + N C (M + K)) a head; memory O(N (M + C) + N M K / C): no N x M x K tensor exists.
    """
    batch, heads, length, features = queries.shape
    if keys.shape != queries.shape or values.shape[:-1] != queries.shape[:-1]:
        raise ValueError(
            f"queries, keys and values must agree in (batch, heads, length), and the first two in features: "
            f"got {tuple(queries.shape)}, {tuple(keys.shape)}, {tuple(values.shape)}"
        )
    require_positive(chunk=chunk)
    dtype = exact_dtype(queries, values)
    with no_autocast(values):
        if state is None:
            empty = empty_epsilon if feature_epsilon else empty_features
            state = empty(batch, heads, features, values.shape[-1], device=values.device, dtype=dtype)
        before = state if exponents else unscaled(state)
        inputs = (queries.to(dtype), keys.to(dtype), zero_keys(values, mask).to(dtype))

        def attend(q: Tensor, k: Tensor, v: Tensor, largest: Tensor | None = None) -> tuple[Tensor, FeatureState]:
            return _causal(q, k, v, before, mask, exponents, largest, feature_epsilon, denominator_epsilon, chunk_of(chunk, length))

        more = () if candidates is None else (candidates,)
        output, state = attend(*inputs, *more)
        output = keep_out(lambda *x: attend(*x)[0], (*inputs, *more), output, mask)
    return output.to(values.dtype), state


def _causal(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    state: FeatureState,
    mask: Tensor | None,
    exponents: bool,
    candidates: Tensor | None,
    feature_epsilon: float,
    denominator_epsilon: float,
    chunk: int,
) -> tuple[Tensor, FeatureState]:
    length = queries.shape[-2]
    if exponents:
        if mask is not None:
            keys = keys.masked_fill(~mask[:, None, :, None], -torch.inf)
        candidates = keys.amax(dim=-1) if candidates is None else candidates
        if mask is not None:
            candidates = candidates.masked_fill(~mask[:, None, :], -torch.inf)
        candidates = candidates.detach().clamp_min(EMPTY)
        maximum = torch.maximum(running_maximum(candidates), state.maximum)  # (B, H, N), non-decreasing
        keys = (keys - maximum[..., None]).exp()
    else:
        keys = zero_keys(keys, mask)
        maximum = torch.zeros_like(keys[..., 0])
    extra = denominator_epsilon * (-maximum).clamp_max(60.0).exp() * queries.sum(dim=-1) if denominator_epsilon else None  # (B, H, N)

    padding = missing(length, chunk)
    queries, keys, values = (F.pad(tensor, (0, 0, 0, padding)) for tensor in (queries, keys, values))
    maximum = repeat_last(maximum, padding)
    queries, keys, values = (_chunks(tensor, chunk) for tensor in (queries, keys, values))  # (B, H, G, C, .)
    maximum = cut(maximum, chunk, dim=-1)  # (B, H, G, C)

    last = maximum[..., -1:]  # (B, H, G, 1)
    arriving = torch.cat((state.maximum[..., None, :], last[..., :-1, :]), dim=-2)  # the maximum before each chunk
    rescaled = keys * (maximum - last).exp()[..., None]
    totals, weights, after = _scan(rescaled.transpose(-1, -2) @ values, rescaled.sum(dim=-2), (arriving - last).exp(), state, last)

    decay = (maximum[..., None, :] - maximum[..., :, None]).masked_fill(_future(chunk, maximum.device), -torch.inf).exp()
    scores = (queries @ keys.transpose(-1, -2)) * decay  # (B, H, G, C, C), zero above the diagonal
    carried = queries * (arriving - maximum).exp()[..., None]
    numerator = scores @ values + carried @ totals
    denominator = scores.sum(dim=-1, keepdim=True) + carried @ weights[..., None]
    if feature_epsilon:
        before, mass = _with_sums(state), queries.sum(dim=-1, keepdim=True)
        present = values.new_ones(1, length) if mask is None else mask.to(values.dtype)
        present = F.pad(present, (0, padding))[:, None]  # (B or 1, 1, G C)
        sums = values.flatten(2, 3).cumsum(dim=-2) + before.values[..., None, :]
        counts = present.cumsum(dim=-1) + before.count  # (B, H, G C)
        numerator = numerator + feature_epsilon * mass * _chunks(sums, chunk)
        denominator = denominator + feature_epsilon * mass * cut(counts, chunk, dim=-1)[..., None]
        seen = before.values + values.sum(dim=(2, 3)), before.count + present.sum(dim=-1, keepdim=True)
        after = EpsilonState(after.total, after.weight, after.maximum, *seen)
    numerator, denominator = (tensor.flatten(2, 3)[..., :length, :] for tensor in (numerator, denominator))
    if extra is not None:
        denominator = denominator + extra[..., None]
    return normalise(numerator, denominator), after


def _scan(totals: Tensor, weights: Tensor, decays: Tensor, state: FeatureState, last: Tensor) -> tuple[Tensor, Tensor, FeatureState]:
    """The summary before each chunk, (B, H, G, M, K) and (B, H, G, M), and the one after the last."""
    if is_open(totals.shape[2]):
        before, total = running_totals(totals, decays[..., None], state.total)
        before_weight, weight = running_totals(weights, decays, state.weight)
        return before, before_weight, FeatureState(total, weight, last[..., -1, :])
    total, weight = state.total, state.weight
    before_totals, before_weights = [], []
    for g in range(totals.shape[2]):
        before_totals.append(total)
        before_weights.append(weight)
        total = torch.addcmul(totals[:, :, g], decays[:, :, g, :, None], total)
        weight = torch.addcmul(weights[:, :, g], decays[:, :, g], weight)
    after = FeatureState(total, weight, last[..., -1, :])
    return torch.stack(before_totals, dim=2), torch.stack(before_weights, dim=2), after


def _with_sums(state: FeatureState) -> EpsilonState:
    require(isinstance(state, EpsilonState), "feature_epsilon reads the sum and number of values: a state must be made with it")
    return state  # type: ignore[return-value]


def _chunks(tensor: Tensor, chunk: int) -> Tensor:
    return cut(tensor, chunk)


def _future(size: int, device: torch.device) -> Tensor:
    return torch.ones(size, size, dtype=torch.bool, device=device).triu(1)


def linear_attention_reference(
    log_queries: Tensor, log_keys: Tensor, values: Tensor, *, causal: bool, mask: Tensor | None = None, return_attention: bool = False
) -> Tensor:
    """The definition: weights proportional to sum_f q_f k_f, formed in the logarithm. The oracle of the tests; O(N S M), exact in float64.

    Args:
        log_queries, log_keys: (B, H, N, M), (B, H, S, M).
        values: (B, H, S, K).
        causal: position i sees keys up to i only.
        mask: (B, S) bool, True = real key.
        return_attention: give the weights (B, H, N, S) instead of the output.
    """
    scores = torch.logsumexp(log_queries[..., :, None, :] + log_keys[..., None, :, :], dim=-1)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], -torch.inf)
    if causal:
        scores = scores.masked_fill(_future(scores.shape[-1], scores.device), -torch.inf)
    weights = scores.softmax(dim=-1).nan_to_num(0.0)
    return weights if return_attention else weights @ values
