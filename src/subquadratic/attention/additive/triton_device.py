"""The device code of triton.py: four kernels, and what they share.

`l` are logits, `m` the running maximum at each position, `arriving` the one before a chunk, `leaving` the one at its end;
`dx` is the gradient of x.

Axes: B batch, H heads, N length, K head width, G chunks, C chunk length, P documents (B when not packed).
"""
# mypy: disallow-untyped-defs=False
# (device code has no types that Python knows)

import triton
import triton.language as tl

from ...kernels.triton.common import dot, find_chunk, find_document, load_tile, store_tile


@triton.jit(do_not_specialize=["length", "per_document"])
def states_kernel(
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
def output_kernel(
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
def reverse_kernel(
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
def gradient_kernel(
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
