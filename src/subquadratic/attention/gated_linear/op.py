"""Gated linear attention on tensors: causal, in O(N) (GLA, arXiv 2312.06635).

Axes: B batch, H heads, N length, K width of queries and keys, V width of values.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ...core.backend import computed_by
from ...core.causality import keep_out
from ...core.errors import require, require_positive
from ...core.numerics import exact_dtype, no_autocast
from ...core.packed import document_bounds
from ...core.state import State, state
from ...core.tracing import is_open, needs_gradient
from .chunks import mix
from .gradient import CausalGatedLinear, mix_blocks

BLOCK_NUMBERS = {"cpu": 1 << 20, "cuda": 1 << 25}  # of the widest tensor of a block: some ten of that size exist at a time


@state
class FadingState(State):
    """The faded sum of keys and values so far; float32 (float64 for float64 inputs)."""

    total: Tensor  # (B, H, K, V)


def empty_sum(
    batch: int, heads: int, key_width: int, width: int, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> FadingState:
    """The sum of no tokens."""
    return FadingState(torch.zeros(batch, heads, key_width, width, device=device, dtype=dtype))


def gated_linear_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    log_decay: Tensor,
    mask: Tensor | None = None,
    state: FadingState | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    chunk: int = 64,
    backend: str | None = None,
) -> tuple[Tensor, FadingState]:
    """o_t = S_t^T q_t / sqrt(K) with S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_t^T.

    Args:
        queries, keys: (B, H, N, K).
        values: (B, H, N, V).
        log_decay: (B, H, N, K), or (B, H, N, 1) for one decay of all channels of a head: logarithms, at most 0.
        mask: (B, N) bool, True = real token. Padding is not summed, and nothing fades over it.
        state: what came before; None at the start of a sequence.
        cu_seqlens: (documents + 1,) bounds of documents packed into one row (B = 1); the state then has one row per document. They are
            computed one after another.
        chunk: positions whose pairs are compared, a power of two. Changes speed, not the result.
        backend: "auto" or "torch" (:func:`~subquadratic.core.backend.use_backend`): there is no kernel yet.

    Returns:
        (B, H, N, V) in the dtype of ``values``, and the sum after the last position. Outputs at padded positions mean nothing.

    Raises:
        ValueError: if shapes disagree, ``cu_seqlens`` is wrong, or ``chunk`` is no power of two.
        NotImplementedError: for ``cu_seqlens`` while compiling.

    Cost O(N C (K + V) + N K V) a head with chunks of C; kept for backward: the inputs, and a sum for every block of positions. Gradients
    reach all inputs and the sum before. No later position is part of an earlier output, not even by rounding.
    """
    batch, heads, length, width = queries.shape
    _check(queries, keys, values, log_decay, mask, chunk)
    bounds = document_bounds(cu_seqlens, batch, length, state_rows=None if state is None else state.total.shape[0])
    exact, given = exact_dtype(queries, keys, values, log_decay), values.dtype
    rows = batch if bounds is None else len(bounds) - 1
    before = empty_sum(rows, heads, width, values.shape[3], device=values.device, dtype=exact) if state is None else state.to(dtype=exact)
    with no_autocast(values):
        queries, keys, values, log_decay = (x.to(exact) for x in (queries, keys, values, log_decay))
        queries = queries * width**-0.5
        if mask is not None:
            padding = ~mask[:, None, :, None]
            keys, values, log_decay = (x.masked_fill(padding, 0.0) for x in (keys, values, log_decay))
        by = computed_by(backend, values)
        if bounds is None:
            output, total = _run(queries, keys, values, log_decay, before.total, chunk, by, mask)
        else:
            outputs, totals = [], []
            for row, (start, stop) in enumerate(pairwise(bounds)):
                q, k, v, decay = (x[:, :, start:stop] for x in (queries, keys, values, log_decay))
                here = None if mask is None else mask[:, start:stop]
                output, total = _run(q, k, v, decay, before.total[row : row + 1], chunk, by, here)
                outputs.append(output)
                totals.append(total)
            output, total = torch.cat(outputs, dim=2), torch.cat(totals)
    return output.to(given), FadingState(total)


def _run(
    queries: Tensor, keys: Tensor, values: Tensor, log_decay: Tensor, total: Tensor, chunk: int, by: str, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Output and sum after, of what is masked, scaled and of one dtype already."""
    batch, heads, length, width = values.shape
    if not length:
        return values, total
    inputs = (queries, keys, values, log_decay)
    if length == 1 and not needs_gradient(*inputs, total):
        total = torch.addcmul(keys.mT * values, total, log_decay.exp().mT)
        return queries @ total, total
    if is_open(batch, length):
        return mix(*inputs, total, chunk)
    numbers = BLOCK_NUMBERS.get(values.device.type, 1 << 25)
    block = max(chunk, numbers // max(batch * heads * max(width, queries.shape[3]), 1) // chunk * chunk)
    form: Any = CausalGatedLinear.apply if by == "torch" and needs_gradient(*inputs, total) else mix_blocks
    output, after, *_ = form(*inputs, total, block, chunk)
    return keep_out(lambda *x: form(*x, total, block, chunk)[0], inputs, output, mask), after


def _check(queries: Tensor, keys: Tensor, values: Tensor, log_decay: Tensor, mask: Tensor | None, chunk: int) -> None:
    batch, heads, length, width = queries.shape
    require(keys.shape == queries.shape, f"keys must be of the shape of queries, {tuple(queries.shape)}, got {tuple(keys.shape)}")
    require(
        values.dim() == 4 and values.shape[:3] == queries.shape[:3],
        f"values must be (batch, heads, length, width) = {(batch, heads, length)} + (width,), got {tuple(values.shape)}",
    )
    require(
        log_decay.dim() == 4 and log_decay.shape[:3] == queries.shape[:3] and log_decay.shape[3] in (1, width),
        f"log_decay must be {(batch, heads, length)} + (1 or {width},), got {tuple(log_decay.shape)}",
    )
    require(
        mask is None or mask.shape == (batch, length),
        f"mask must be (batch, length) = {(batch, length)}, got {None if mask is None else tuple(mask.shape)}",
    )
    require_positive(chunk=chunk)
    require(chunk & (chunk - 1) == 0, f"chunk must be a power of two, got {chunk}")
