"""FAVOR+ from queries, keys and a projection: causal, and as a summary that queries read (Performer, arXiv 2009.14794).

The fast way to what `features.py` and `formula.py` spell out together, which is also its oracle and its stand-in
where a backward written by hand cannot go: under `torch.compile` and the transforms of `torch.func`.

Axes: B batch, H heads, N length (queries), S length (keys), K head width, M features.
"""

from typing import Any

import torch
from torch import Tensor

from ...core.backend import Computer, computed_by
from ...core.causality import keep_out
from ...core.errors import require, require_positive
from ...core.numerics import exact_dtype, no_autocast
from ...core.packed import document_bounds, document_chunks, state_rows
from ...core.tracing import in_one_call, needs_gradient
from ...layers.linear.op import linear
from ...layers.rotary.op import turn_both
from .blocks import guarded
from .causal import CausalFavor, causal_by_formula
from .features import softmax_exponents
from .formula import causal_linear_attention, read_features, summarise_features, zero_keys
from .native_causal import NativeCausalFavor
from .native_step import step
from .native_summary import NativeRead, NativeSummarise
from .state import FeatureState, empty_features, unscaled
from .summary import Read, Summarise

BLOCK_NUMBERS = {"cpu": 352 * 1024, "cuda": 1 << 25}  # features of one block: on a CPU as many as its second-level cache holds


def causal_favor(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    projection: Tensor | None,
    state: FeatureState | None = None,
    *,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    turns: Tensor | None = None,
    chunk: int = 64,
    block: int | None = None,
    backend: str | None = None,
) -> tuple[Tensor, FeatureState]:
    """Causal FAVOR+ of the next N positions.

    Args:
        queries, keys: (B, H, N, K); without a projection features (B, H, N, M), which may be any positive numbers.
        values: (B, H, N, K).
        projection: (M, K), no gradient; None: queries and keys are features already, and nothing is stabilised.
        state: what came before; None at the start of a sequence. One of a narrower dtype is widened, and one of a single row holds for all.
        mask: (B, N) bool, True = real token.
        cu_seqlens: (documents + 1,) where documents begin and end in a packed row, B = 1; the state then has a row per document.
        turns: (N, K) or (B, 1, N, K), a :func:`~subquadratic.layers.rotary.op.rotation` of queries and keys, before anything else.
        chunk, block: C, and positions whose features exist at a time (None: as many as stay in a CPU's caches), for PyTorch's operators;
            kernels have sizes of their own. They change speed, not the result.
        backend: "auto", "torch", "triton" or "native" (:func:`~subquadratic.core.backend.use_backend`); None: as chosen there.

    Returns:
        (B, H, N, K) in the dtype of ``values`` (zeros where no real key has come yet), and the summary after the last token.

    Raises:
        ValueError: if shapes disagree, the state is of a wider dtype, or ``chunk`` < 1.
        NotImplementedError: for ``cu_seqlens`` while compiling.

    Cost O(N M K + N C (M + K)) a head. Kept for backward: the arguments, the output, 5 N numbers (by the C kernels N), and a summary (M K)
    and, but by those, the scores (C C) of each chunk; of a long sequence, a summary for each few chunks.
    """
    batch, heads, length, _ = queries.shape
    if keys.shape != queries.shape or values.shape[:-1] != queries.shape[:-1]:
        raise ValueError(
            f"queries, keys and values must agree in (batch, heads, length), and the first two in width: "
            f"got {tuple(queries.shape)}, {tuple(keys.shape)}, {tuple(values.shape)}"
        )
    require_positive(chunk=chunk, block=block)
    dtype, given = exact_dtype(queries, values), values.dtype
    way = computed_by(backend, values, native=projection is not None, triton=True, dtype=dtype)
    bounds = document_bounds(cu_seqlens, batch, length, state_rows=None if state is None else state.total.shape[0])
    features = queries.shape[-1] if projection is None else projection.shape[0]
    with no_autocast(values):
        queries, keys = queries.to(dtype), keys.to(dtype)
        if not batch or (way == "formula" and bounds is None):  # blocks of an empty batch have no size
            queries, keys = _turned(queries, keys, turns)
            return _formula(queries, keys, values, projection, state, mask, chunk)
        if state is None:
            state = empty_features(state_rows(bounds, batch), heads, features, values.shape[-1], device=values.device, dtype=dtype)
        elif state.total.dtype is not dtype or state.total.shape[0] != state_rows(bounds, batch):
            state = _fitted(state, state_rows(bounds, batch), dtype)
        one = way in ("torch", "native") and length == 1 and bounds is None
        if one and not needs_gradient(queries, keys, values, state.total, state.weight):
            output, after = _step(way, queries, keys, values.to(dtype), turns, projection, state, mask)
            return output.to(given), after
        queries, keys = _turned(queries, keys, turns)
        state = state if projection is not None else unscaled(state)
        if way == "triton":
            from .triton import favor_by_kernel

            keys, values = zero_keys(keys, mask), zero_keys(values, mask)
            output, *summary = favor_by_kernel(queries, keys, values, projection, state, mask, cu_seqlens)
            return output, FeatureState(*summary)
        values = values.to(dtype)
        projection = None if projection is None else _scaled(projection, queries)
        form: Any
        options: tuple[Any, ...]
        if way == "native":
            form, options = NativeCausalFavor.apply, (bounds,)
        else:
            keys, values = zero_keys(keys, mask), zero_keys(values, mask)
            form = CausalFavor.apply if way == "torch" else causal_by_formula
            options = document_chunks(bounds, length, block or _block(values, features, chunk)), chunk
        more = (projection, mask, state.total, state.weight, state.maximum, *options)
        output, *summary = form(queries, keys, values, *more)
        output = keep_out(lambda *inputs: form(*inputs, *more)[0], (queries, keys, values), output, mask)
    return output.to(given), FeatureState(*summary)


def summarise_favor(
    keys: Tensor, values: Tensor, projection: Tensor, mask: Tensor | None = None, *, block: int | None = None
) -> FeatureState:
    """All that queries can ask of a whole set of keys and values, for :func:`read_favor`.

    Args:
        keys, values: (B, H, S, K).
        projection: (M, K), no gradient.
        mask: (B, S) bool, True = real token.
        block: as in :func:`causal_favor`.

    Cost O(S M K) a head; nothing but the arguments is kept for backward.
    """
    dtype = exact_dtype(keys, values)
    way = computed_by(None, values, native=True, dtype=dtype)
    with no_autocast(values):
        keys, values = keys.to(dtype), values.to(dtype)
        if way == "formula" or not len(keys):
            return summarise_features(softmax_exponents(keys, projection)[0], values, mask)
        if way == "native":
            return FeatureState(*NativeSummarise.apply(keys, values, _scaled(projection, keys), mask))
        keys, values = zero_keys(keys, mask), zero_keys(values, mask)
        return FeatureState(*Summarise.apply(keys, values, _scaled(projection, keys), mask, block or _block(values, projection.shape[0])))


def read_favor(queries: Tensor, summary: FeatureState, projection: Tensor, *, block: int | None = None) -> Tensor:
    """FAVOR+ of queries to a summary: (B, H, N, K) -> (B, H, N, K) in the dtype of ``queries``, zero where there is no key.

    Args:
        queries: (B, H, N, K).
        summary: from :func:`summarise_favor`, or what :func:`causal_favor` has seen. One of a single row is read by all.
        projection: the one that the summary was made with.
        block: as there.
    """
    dtype, given = exact_dtype(queries, summary.total), queries.dtype
    way = computed_by(None, queries, native=True, dtype=dtype)
    with no_autocast(queries):
        queries = queries.to(dtype)
        if summary.total.dtype is not dtype or summary.total.shape[0] != queries.shape[0]:
            summary = _fitted(summary, queries.shape[0], dtype)
        if way == "formula" or not len(queries):
            return read_features(softmax_exponents(queries, projection)[0], summary).to(given)
        read = queries, _scaled(projection, queries), summary.total, summary.weight, summary.maximum
        if way == "native":
            return NativeRead.apply(*read).to(given)
        return Read.apply(*read, block or _block(queries, projection.shape[0])).to(given)


def _turned(queries: Tensor, keys: Tensor, turns: Tensor | None) -> tuple[Tensor, Tensor]:
    return (queries, keys) if turns is None else turn_both(queries, keys, turns)


def _scaled(projection: Tensor, x: Tensor) -> Tensor:
    """The projection times K^(-1/4), in the dtype of (., K) inputs."""
    require(not projection.requires_grad, "projection must not require a gradient: it is drawn, not learned")
    return projection.to(x.dtype) * x.shape[-1] ** -0.25


def _fitted(state: FeatureState, rows: int, dtype: torch.dtype) -> FeatureState:
    """A state in ``dtype`` and for ``rows``, of which it may be the one that holds for all.

    Raises:
        ValueError: if it is in a wider dtype, or for another number of rows.
    """
    given, count = state.total.dtype, state.total.shape[0]
    require(
        torch.promote_types(given, dtype) is dtype,
        f"state must not be in a wider dtype than what is computed, {dtype}, got {given}: convert it with state.to(dtype={dtype})",
    )
    require(count in (1, rows), f"state must be for {rows} rows, as many as are given, or for one that holds for all, got one for {count}")
    return state.map(lambda x: x.to(dtype).expand(rows, *x.shape[1:]))


def _block(x: Tensor, features: int, chunk: int = 64) -> int:
    """Positions of a block of (B, H, N, .) inputs, a multiple of ``chunk``."""
    return max(chunk, BLOCK_NUMBERS.get(x.device.type, 1 << 25) // max(x.shape[0] * x.shape[1] * features, 1) // chunk * chunk)


def _step(
    way: Computer,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    turns: Tensor | None,
    projection: Tensor | None,
    state: FeatureState,
    mask: Tensor | None,
) -> tuple[Tensor, FeatureState]:
    """One token, without gradients: few operations, and the state is read and written once."""
    if way == "native" and projection is not None:
        return step(queries, keys, values, turns, projection, mask, state)
    queries, keys = _turned(queries, keys, turns)
    values, maximum = zero_keys(values, mask), state.maximum
    if projection is None:
        q, k = queries, keys  # (B, H, 1, M)
    else:
        scaled = torch.cat((queries, keys), dim=2) * queries.shape[-1] ** -0.25
        exponents = linear(scaled, projection.to(scaled.dtype))
        q, k = torch.softmax(exponents[:, :, :1], dim=-1), exponents[:, :, 1:]
        half = torch.linalg.vecdot(keys, keys).mul_(keys.shape[-1] ** -0.5 / 2)
        largest = k.amax(dim=-1).sub_(half)
        if mask is not None:
            largest = largest.masked_fill(~mask[:, None], -torch.inf)
        maximum = torch.maximum(largest, maximum)
        k = torch.sub(k, half.add_(maximum)[..., None]).exp_()
    if mask is not None:
        k = k.masked_fill(~mask[:, None, :, None], 0.0)
    total, weight = (state.total, state.weight) if projection is None else _rescaled(maximum, state.maximum, state.total, state.weight)
    total, weight = torch.addcmul(total, k.mT, values), weight + k[:, :, 0]
    normaliser = torch.linalg.vecdot(q, weight[:, :, None])[..., None]
    output = (q @ total) / guarded(normaliser)
    return output, FeatureState(total, weight, maximum)


@in_one_call
def _rescaled(maximum: Tensor, before: Tensor, total: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The sums relative to a new maximum; a new one is rare, and costs a pass over them."""
    if maximum.device.type == "cpu" and type(maximum) is Tensor and torch.equal(maximum, before):  # no stand-in without numbers
        return total, weight
    shrink = (before - maximum).exp_()
    return total * shrink[..., None], weight * shrink


def _formula(
    queries: Tensor, keys: Tensor, values: Tensor, projection: Tensor | None, state: FeatureState | None, mask: Tensor | None, chunk: int
) -> tuple[Tensor, FeatureState]:
    if projection is None:
        return causal_linear_attention(queries, keys, values, state, mask=mask, exponents=False, chunk=chunk)
    log_queries, log_keys = (softmax_exponents(x, projection)[0] for x in (queries, keys))
    features = (log_queries - log_queries.detach().amax(dim=-1, keepdim=True)).exp()
    return causal_linear_attention(features, log_keys, values, state, mask=mask, chunk=chunk)
