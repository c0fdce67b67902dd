"""Softmax pooling: the softmax-weighted mean of a sequence, and at each position of everything up to it.

Fastformer's additive attention (arXiv 2108.09084, eqs. 3-5) and its causal half: a summary of the past is (maximum logit, sum of weights,
weighted sum), merged as in online softmax.

Axes: B batch, H heads, N length, K head width, C chunk length.
"""

from functools import partial

import torch
from torch import Tensor

from ...core.backend import computed_by
from ...core.causality import keep_out
from ...core.errors import require_positive
from ...core.numerics import EMPTY, exact_dtype, no_autocast
from ...core.packed import document_bounds, state_rows
from ...core.tracing import needs_gradient
from . import native_running
from .formula import blank, running_mean_by_formula
from .running import RunningMean, forward
from .state import PoolState, empty_pool


def softmax_mean(logits: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """sum_j softmax_j(logits) values_j over the real positions.

    Args:
        logits: (B, H, N).
        values: (B, H, N, K).
        mask: (B, N) bool, True = real token; None means all are.

    Returns:
        (B, H, 1, K) in the dtype of ``values``; zeros for a row with no real token.
    """
    exact = exact_dtype(logits, values)
    logits = logits.to(exact)
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None], EMPTY)
        values = values.masked_fill(~mask[:, None, :, None], 0.0)
    with no_autocast(values):
        return (logits.softmax(dim=-1)[..., None, :] @ values.to(exact)).to(values.dtype)


def running_softmax_mean(
    logits: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    state: PoolState | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    chunk: int = 16,
    backend: str | None = None,
) -> tuple[Tensor, PoolState]:
    """Softmax-weighted running mean, y_i = sum_{j<=i} softmax_j(logits_{<=i}) values_j.

    Args:
        logits: (B, H, N) scores, any real number.
        values: (B, H, N, K).
        mask: (B, N) bool, True = real token; None means all are. Padded tokens weigh nothing.
        state: what came before; None at the start of a sequence.
        cu_seqlens: (documents + 1,) bounds of documents packed into one row (B = 1); the state then has one row per document.
        chunk: positions handled by one C x C matmul. Changes speed, not the result.
        backend: "auto", "torch", "triton" or "native" (:func:`~subquadratic.core.backend.use_backend`); None: as chosen there.

    Returns:
        (B, H, N, K) in the dtype of ``values`` (zeros where no real token has come yet), and the summary after the last token.

    Raises:
        ValueError: if the shapes of ``logits``, ``values`` and ``mask`` disagree, ``cu_seqlens`` is wrong, or ``chunk`` < 1.
        NotImplementedError: for ``cu_seqlens`` while compiling.

    Cost O(N (C + K)) a head; kept for backward: the inputs, the output and two numbers a position. The C kernels: O(N K) a head; kept: the
    inputs, and the summary before every 64th position. Gradients reach ``logits``, ``values`` and the sums of ``state``. No weight of a
    later token is ever used, so the future cannot leak, not even by rounding.
    """
    batch, heads, length, width = values.shape
    if logits.shape != (batch, heads, length):
        raise ValueError(f"logits must be {(batch, heads, length)} to match values, got {tuple(logits.shape)}")
    if mask is not None and mask.shape != (batch, length):
        raise ValueError(f"mask must be (batch, length) = {(batch, length)}, got {tuple(mask.shape)}")
    require_positive(chunk=chunk)
    bounds = document_bounds(cu_seqlens, batch, length, state_rows=None if state is None else state.total.shape[0])

    exact = exact_dtype(logits, values)
    if state is None:
        state = empty_pool(state_rows(bounds, batch), heads, width, device=values.device, dtype=exact)
    elif state.total.dtype != exact:
        state = state.to(dtype=exact)
    way = computed_by(backend, values, native=bounds is None and partial(native_running.fits, logits, values, None, state), triton=True)
    with no_autocast(values):
        if way == "triton":
            from .triton import running_softmax_mean as by_kernel

            output, *after = by_kernel(*blank(logits, values, mask), state.maximum, state.weight, state.total, cu_seqlens=cu_seqlens)
            return output, PoolState(*after)
        if way == "native":
            return native_running.read_mean(logits, values, None, state, mask)
        if way == "formula":
            return running_mean_by_formula(logits, values, mask, state, bounds, chunk=chunk)
        inputs = (logits, values, state.weight, state.total)
        if needs_gradient(*inputs):
            output, *after = RunningMean.apply(*inputs, state.maximum, mask, bounds, chunk)
            before = (state.weight, state.total, state.maximum, mask, bounds, chunk)
            output = keep_out(lambda *parts: RunningMean.apply(*parts, *before)[0], (logits, values), output, mask)
            return output, PoolState(*after)
        if length == 1 and bounds is None:
            return _step(*blank(logits.to(exact), values.to(exact), mask), state, values.dtype)

        def attend(x: Tensor, y: Tensor) -> tuple[Tensor, PoolState]:
            return forward(x, y, state, mask, bounds, chunk)[:2]

        output, last = attend(logits, values)
        return keep_out(lambda *x: attend(*x)[0], (logits, values), output, mask), last


def _step(logits: Tensor, values: Tensor, state: PoolState, dtype: torch.dtype) -> tuple[Tensor, PoolState]:
    """One token: (B, H, 1) and (B, H, 1, K)."""
    maximum = torch.maximum(logits, state.maximum)
    old, new = (state.maximum - maximum).exp_(), (logits - maximum).exp_()
    weight = torch.addcmul(new, old, state.weight)
    total = (old * state.total).addcmul_(new, values.squeeze(2))
    output = total / weight.clamp_min(torch.finfo(weight.dtype).tiny)  # nothing seen: 0 / tiny
    return output[:, :, None].to(dtype), PoolState(maximum, weight, total)
