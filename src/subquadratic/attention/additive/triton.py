"""Softmax-weighted running mean, forward and backward: the engine of causal additive attention.

    y_i = sum_{j<=i} exp(l_j - m_i) v_j / W_i,   W_i = sum_{j<=i} exp(l_j - m_i),   m_i = max_{j<=i} l_j

Chunk by chunk: one kernel walks each document and writes the summary (maximum, weight, total) before every chunk, another computes every
chunk's output from it. Backward needs no summary of the past again, since m_i and 1 / W_i are kept; one kernel walks backwards and writes
what all later positions ask of a chunk, another computes the chunks' gradients:

    dv_j = sum_{i>=j} w_ij dy_i,   dl_j = sum_{i>=j} w_ij (dy_i v_j - dy_i y_i),   w_ij = exp(l_j - m_i) / W_i

Axes: B batch, H heads, N length, K head width, G chunks, C chunk length, P documents (B when not packed).
"""
# mypy: disallow-untyped-defs=False
# (device code has no types that Python knows)

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...kernels.derivatives import differentiable, keep, kept
from ...kernels.triton.common import (
    DTYPES,
    LAUNCH,
    Chunks,
    by_document,
    check_inputs,
    check_shapes,
    cut,
    documents_of,
    dot,
    find_chunk,
    find_document,
    lines,
    load_tile,
    plain,
    slopes,
    store_tile,
    strides,
    tile,
)


def running_softmax_mean(
    logits: Tensor, values: Tensor, maximum: Tensor, weight: Tensor, total: Tensor, *, cu_seqlens: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Softmax-weighted mean of everything up to each position.

    Args:
        logits: (B, H, N) scores, float32, float16 or bfloat16; -inf for padding.
        values: (B, H, N, K) float32, float16 or bfloat16, finite for padding too. No copy is made where the last axis is contiguous.
        maximum: (P, H, 1) float32, the largest logit before, with P = B, or one row a document; -1e30 where nothing came yet.
        weight: (P, H, 1) float32, sum of exp(logit - maximum) before.
        total: (P, H, K) float32, sum of exp(logit - maximum) value before.
        cu_seqlens: (P + 1,) int64, where packed documents begin, from 0 to N, non-decreasing (not checked: that would wait for the device).
            Then B = 1.

    Returns:
        (B, H, N, K) like ``values``, exactly zero where no real token has come; and maximum, weight and total after the last position.
        Gradients reach logits, values, weight and total (the maximum is a constant).

    Raises:
        ValueError: if shapes or dtypes disagree.

    Cost O(N (C + K)) a head; what backward keeps is the inputs, the output and two float32 (B, H, N).
    """
    batch, heads, length, width = values.shape
    documents = documents_of(batch, cu_seqlens)
    check_inputs(cu_seqlens, values=values)
    if logits.dtype not in DTYPES:
        raise ValueError(f"logits must be float32, float16 or bfloat16, got {logits.dtype}")
    check_shapes(
        logits=(logits, (batch, heads, length)),
        maximum=(maximum, (documents, heads, 1)),
        weight=(weight, (documents, heads, 1)),
        total=(total, (documents, heads, width)),
    )
    output, maximum, weight, total, _, _ = _forward(logits, values, maximum.detach().float(), weight.float(), total.float(), cu_seqlens)
    return output, maximum, weight, total


@torch.library.custom_op("subquadratic::running_softmax_mean", mutates_args=())
def _forward(
    logits: Tensor, values: Tensor, maximum: Tensor, weight: Tensor, total: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The output, maximum, weight and total, then m and 1 / W of each position, (B, H, N), the latter zero where W is."""
    values = lines(values)
    batch, heads, length, width = values.shape
    chunks = cut(batch, length, tile(length, values.dtype), cu_seqlens)
    output = torch.empty_like(values)
    last = plain(maximum.shape, values), plain(weight.shape, values), plain(total.shape, values)
    maxima, inverses = plain(logits.shape, values), plain(logits.shape, values)
    before = plain((chunks.total, heads), values), plain((chunks.total, heads), values), plain((chunks.total, heads, width), values)
    sizes = _sizes(values, chunks)
    tiles = triton.cdiv(width, sizes["BLOCK_K"])
    with torch.cuda.device_of(values):
        _states_kernel[(chunks.documents * heads, tiles)](
            logits, values, maximum.contiguous(), weight.contiguous(), total.contiguous(), *before, *last, cu_seqlens, chunks.offsets,
            length, chunks.per_document, *strides(logits), *strides(values), **sizes,
        )  # fmt: skip
        _output_kernel[(chunks.total * tiles, heads)](
            logits, values, *before, output, maxima, inverses, cu_seqlens, chunks.table, length, chunks.per_document,
            *strides(logits), *strides(values), *strides(output), **sizes,
        )  # fmt: skip
    return output, *last, maxima, inverses


@_forward.register_fake
def _(
    logits: Tensor, values: Tensor, maximum: Tensor, weight: Tensor, total: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    state = plain(maximum.shape, values), plain(weight.shape, values), plain(total.shape, values)
    return torch.empty_like(lines(values)), *state, plain(logits.shape, values), plain(logits.shape, values)


@torch.library.custom_op("subquadratic::running_softmax_mean_backward", mutates_args=())
def _backward(
    grad_output: Tensor,
    grad_weight: Tensor,
    grad_total: Tensor,
    logits: Tensor,
    values: Tensor,
    maximum: Tensor,
    output: Tensor,
    maxima: Tensor,
    inverses: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of logits, values, weight and total."""
    values, grad_output = lines(values), lines(grad_output.to(values.dtype))
    batch, heads, length, width = values.shape
    chunks = cut(batch, length, tile(length, values.dtype), cu_seqlens)
    grad_logits, grad_values = torch.empty_like(logits), torch.empty_like(values)
    after = plain((chunks.total, heads), values), plain((chunks.total, heads, width), values)
    before = plain(grad_weight.shape, values), plain(grad_total.shape, values)
    sizes = _sizes(values, chunks)
    with torch.cuda.device_of(values):
        slope = slopes(output, grad_output)
        _reverse_kernel[(chunks.documents * heads, triton.cdiv(width, sizes["BLOCK_K"]))](
            grad_output, slope, maxima, inverses, maximum.contiguous(), grad_weight.contiguous(), grad_total.contiguous(), *after, *before,
            cu_seqlens, chunks.offsets, length, chunks.per_document, *strides(grad_output), **sizes,
        )  # fmt: skip
        _gradient_kernel[(chunks.total, heads)](
            logits, values, grad_output, slope, maxima, inverses, *after, grad_logits, grad_values, cu_seqlens, chunks.table, length,
            chunks.per_document, *strides(logits), *strides(values), *strides(grad_output), *strides(grad_logits), *strides(grad_values),
            **sizes,
        )  # fmt: skip
    return grad_logits, grad_values, *before


@_backward.register_fake
def _(
    grad_output: Tensor,
    grad_weight: Tensor,
    grad_total: Tensor,
    logits: Tensor,
    values: Tensor,
    maximum: Tensor,
    output: Tensor,
    maxima: Tensor,
    inverses: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    state = plain(grad_weight.shape, values), plain(grad_total.shape, values)
    return torch.empty_like(logits), torch.empty_like(lines(values)), *state


def _formula(
    logits: Tensor, values: Tensor, maximum: Tensor, weight: Tensor, total: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The definition, O(N^2): for derivatives of the gradients."""

    def one(scores: Tensor, values: Tensor, start: Tensor, weight: Tensor, total: Tensor) -> tuple[Tensor, ...]:
        m = torch.maximum(scores.detach()[..., 0].cummax(dim=-1).values, start)[..., None]
        weights = (scores.mT - m).masked_fill(torch.ones_like(scores @ scores.mT, dtype=torch.bool).triu(1), -torch.inf).exp()
        arriving = (start[..., None] - m).exp()
        weights_sum = weights.sum(dim=-1, keepdim=True) + arriving * weight[..., None]
        sums = weights @ values + arriving * total[..., None, :]
        output = torch.where(weights_sum > 0, sums / torch.where(weights_sum > 0, weights_sum, 1.0), 0.0)
        return output, m[..., -1, :], weights_sum[..., -1, :], sums[..., -1, :]

    lines, state = (logits.float()[..., None], values.float()), (maximum, weight, total)
    output, _, weight, total = by_document(one, cu_seqlens, values.shape[2], lines, state)
    return output.to(values.dtype), None, weight, total, None, None


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    keep(ctx, inputs, output[0], output[4], output[5])
    ctx.mark_non_differentiable(output[1], output[4], output[5])


@differentiable(_formula)
def _differentiate(ctx: Any, grad_output: Tensor, _: Any, grad_weight: Tensor, grad_total: Tensor, *rest: Any) -> tuple[Tensor | None, ...]:
    (logits, values, maximum, _, _, cu_seqlens), made = kept(ctx)
    grads = _backward(grad_output, grad_weight, grad_total, logits, values, maximum, *made, cu_seqlens)
    grad_logits, grad_values, grad_weight, grad_total = grads
    return grad_logits, grad_values, None, grad_weight, grad_total, None


_forward.register_autograd(_differentiate, setup_context=_remember)


def _sizes(values: Tensor, chunks: Chunks) -> dict[str, Any]:
    """What every kernel is compiled for, and how it is launched."""
    heads, width = values.shape[1], values.shape[-1]
    block = tile(width, values.dtype)
    return {"HEADS": heads, "WIDTH": width, "CHUNK": chunks.size, "BLOCK_K": block, "PACKED": chunks.table is not None, **LAUNCH}


# Device code. `l` are logits, `m` the running maximum at each position, `arriving` the one before a chunk, `leaving` the one at its end;
# `dx` is the gradient of x.


@triton.jit(do_not_specialize=["length", "per_document"])
def _states_kernel(
    logits, values, maximum, weight, total, maxima, weights, totals, last_maximum, last_weight, last_total,
    cu_seqlens, offsets, length, per_document, logits_b, logits_h, logits_n, values_b, values_h, values_n,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = row % HEADS
    batch, begin, end, chunk = find_document(row // HEADS, cu_seqlens, offsets, length, per_document, PACKED)
    columns = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    is_column = columns < WIDTH
    arriving, w = tl.load(maximum + row), tl.load(weight + row)
    t = tl.load(total + row * WIDTH + columns, mask=is_column, other=0.0)
    for i in range(tl.cdiv(end - begin, CHUNK)):
        here = (chunk + i) * HEADS + head
        tl.store(totals + here * WIDTH + columns, t, mask=is_column)
        if tl.program_id(1) == 0:
            tl.store(maxima + here, arriving)
            tl.store(weights + here, w)
        positions = begin + i * CHUNK + tl.arange(0, CHUNK)
        valid = positions < end
        l = _logits(logits + batch * logits_b + head * logits_h, positions, logits_n, valid)
        v = load_tile(values + batch * values_b + head * values_h, positions, values_n, columns, valid, WIDTH)
        leaving = tl.maximum(arriving, tl.max(l, 0))
        share, decay = tl.exp(l - leaving), tl.exp(arriving - leaving)
        w = w * decay + tl.sum(share, 0)
        t = t * decay + tl.sum(share[:, None] * v, 0)
        arriving = leaving
    tl.store(last_total + row * WIDTH + columns, t, mask=is_column)
    if tl.program_id(1) == 0:
        tl.store(last_maximum + row, arriving)
        tl.store(last_weight + row, w)


@triton.jit
def _logits(logits, positions, step, valid):
    """Those of a chunk, in float32; -inf outside, so that nothing weighs there."""
    return tl.load(logits + positions * step, mask=valid, other=float("-inf")).to(tl.float32)


@triton.jit
def _share(l, m, valid, CHUNK: tl.constexpr):
    """exp(l_j - m_i) at (i, j) for j up to i, else 0."""
    i, j = tl.arange(0, CHUNK)[:, None], tl.arange(0, CHUNK)[None, :]
    return tl.exp(tl.where((i >= j) & valid[:, None], l[None, :] - m[:, None], float("-inf")))


@triton.jit(do_not_specialize=["length", "per_document"])
def _output_kernel(
    logits, values, before_maxima, before_weights, before_totals, outputs, maxima, inverses, cu_seqlens, table, length, per_document,
    logits_b, logits_h, logits_n, values_b, values_h, values_n, outputs_b, outputs_h, outputs_n,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    tiles: tl.constexpr = tl.cdiv(WIDTH, BLOCK_K)
    chunk, head = tl.program_id(0).to(tl.int64) // tiles, tl.program_id(1).to(tl.int64)
    document, batch, _, first, stop = find_chunk(chunk, cu_seqlens, table, length, per_document, PACKED, CHUNK)
    if document < 0:
        return
    columns = tl.program_id(0) % tiles * BLOCK_K + tl.arange(0, BLOCK_K)
    positions = first + tl.arange(0, CHUNK)
    valid = positions < stop
    here = chunk * HEADS + head
    arriving, w = tl.load(before_maxima + here), tl.load(before_weights + here)
    t = tl.load(before_totals + here * WIDTH + columns, mask=columns < WIDTH, other=0.0)
    l = _logits(logits + batch * logits_b + head * logits_h, positions, logits_n, valid)
    v = load_tile(values + batch * values_b + head * values_h, positions, values_n, columns, valid, WIDTH)

    order = tl.arange(0, CHUNK)
    m = tl.maximum(tl.max(tl.where(order[:, None] >= order[None, :], l[None, :], float("-inf")), 1), arriving)
    share, carried = _share(l, m, valid, CHUNK), tl.exp(arriving - m)
    weight = w * carried + tl.sum(share, 1)
    some = weight > 0
    inverse = tl.where(some, 1.0 / tl.where(some, weight, 1.0), 0.0)
    output = (t[None, :] * carried[:, None] + dot(share.to(v.dtype), v)) * inverse[:, None]
    store_tile(outputs + batch * outputs_b + head * outputs_h, positions, outputs_n, columns, valid, output, WIDTH)
    if tl.program_id(0) % tiles == 0:
        line = (batch * HEADS + head) * length
        tl.store(maxima + line + positions, m, mask=valid)
        tl.store(inverses + line + positions, inverse, mask=valid)


@triton.jit(do_not_specialize=["length", "per_document"])
def _reverse_kernel(
    gradients, slopes, maxima, inverses, maximum, grad_weight, grad_total, grad_weights, grad_totals, first_weight, first_total,
    cu_seqlens, offsets, length, per_document, gradients_b, gradients_h, gradients_n,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = row % HEADS
    batch, begin, end, chunk = find_document(row // HEADS, cu_seqlens, offsets, length, per_document, PACKED)
    columns = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    is_column = columns < WIDTH
    line = (batch * HEADS + head) * length
    dw = tl.load(grad_weight + row)
    dt = tl.load(grad_total + row * WIDTH + columns, mask=is_column, other=0.0)
    count = tl.cdiv(end - begin, CHUNK)
    for i in range(count):
        here = (chunk + count - 1 - i) * HEADS + head
        tl.store(grad_totals + here * WIDTH + columns, dt, mask=is_column)
        if tl.program_id(1) == 0:
            tl.store(grad_weights + here, dw)
        first = begin + (count - 1 - i) * CHUNK
        positions = first + tl.arange(0, CHUNK)
        valid = positions < end
        arriving = tl.load(maximum + row)
        if first > begin:
            arriving = tl.load(maxima + line + first - 1)
        leaving = tl.load(maxima + line + tl.minimum(first + CHUNK, end) - 1)
        m = tl.load(maxima + line + positions, mask=valid, other=0.0)
        inverse = tl.load(inverses + line + positions, mask=valid, other=0.0)
        slope = tl.load(slopes + line + positions, mask=valid, other=0.0)
        do = load_tile(gradients + batch * gradients_b + head * gradients_h, positions, gradients_n, columns, valid, WIDTH)
        read = tl.exp(tl.where(valid, arriving - m, float("-inf"))) * inverse
        dw = dw * tl.exp(arriving - leaving) + tl.sum(read * slope, 0)
        dt = dt * tl.exp(arriving - leaving) + tl.sum(read[:, None] * do, 0)
    tl.store(first_total + row * WIDTH + columns, dt, mask=is_column)
    if tl.program_id(1) == 0:
        tl.store(first_weight + row, dw)


@triton.jit(do_not_specialize=["length", "per_document"])
def _gradient_kernel(
    logits, values, gradients, slopes, maxima, inverses, grad_weights, grad_totals, grad_logits, grad_values,
    cu_seqlens, table, length, per_document, logits_b, logits_h, logits_n, values_b, values_h, values_n,
    gradients_b, gradients_h, gradients_n, grad_logits_b, grad_logits_h, grad_logits_n, grad_values_b, grad_values_h, grad_values_n,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    chunk, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    document, batch, _, first, stop = find_chunk(chunk, cu_seqlens, table, length, per_document, PACKED, CHUNK)
    if document < 0:
        return
    positions = first + tl.arange(0, CHUNK)
    valid = positions < stop
    line, here = (batch * HEADS + head) * length, chunk * HEADS + head
    l = _logits(logits + batch * logits_b + head * logits_h, positions, logits_n, valid)
    m = tl.load(maxima + line + positions, mask=valid, other=0.0)
    inverse = tl.load(inverses + line + positions, mask=valid, other=0.0)
    slope = tl.load(slopes + line + positions, mask=valid, other=0.0)
    weights = _share(l, m, valid, CHUNK) * inverse[:, None]
    kept = tl.exp(l - tl.load(maxima + line + stop - 1))
    inner = tl.zeros([CHUNK, CHUNK], tl.float32)
    outer = tl.zeros([CHUNK], tl.float32) + tl.load(grad_weights + here)
    for column in range(0, WIDTH, BLOCK_K):
        columns = column + tl.arange(0, BLOCK_K)
        v = load_tile(values + batch * values_b + head * values_h, positions, values_n, columns, valid, WIDTH)
        do = load_tile(gradients + batch * gradients_b + head * gradients_h, positions, gradients_n, columns, valid, WIDTH)
        dt = tl.load(grad_totals + here * WIDTH + columns, mask=columns < WIDTH, other=0.0)
        inner += dot(do, tl.trans(v))
        outer += tl.sum(v * dt[None, :], 1)
        dv = dot(tl.trans(weights.to(do.dtype)), do) + kept[:, None] * dt[None, :]
        store_tile(grad_values + batch * grad_values_b + head * grad_values_h, positions, grad_values_n, columns, valid, dv, WIDTH)
    dl = tl.sum(weights * (inner + slope[:, None]), 0) + kept * outer
    place = grad_logits + batch * grad_logits_b + head * grad_logits_h + positions * grad_logits_n
    tl.store(place, dl.to(grad_logits.dtype.element_ty), mask=valid)
