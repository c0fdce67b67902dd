"""The device code of triton.py: five kernels, and what they share.

`m` is the running maximum at each position, `arriving` the one before a chunk, `leaving` the one at its end; `s`, `z` are the total and the
weight of a state, and `dx` is the gradient of x.

Axes: B batch, H heads, N length, M features, K head width, G chunks, C chunk length, P documents (B when not packed).
"""
# mypy: disallow-untyped-defs=False
# (device code has no types that Python knows)

import triton
import triton.language as tl

from ...core import numerics
from ...kernels.triton.common import dot, find_chunk, find_document, load_tile, shrink, shrink_rows, store_tile

NOTHING = tl.constexpr(numerics.NOTHING)


@triton.jit(do_not_specialize=["length", "per_document"])
def states_kernel(
    keys, values, maximum, start, total, weight, totals, weights, last_total, last_weight, cu_seqlens, offsets, length, per_document,
    keys_b, keys_h, keys_n, values_b, values_h, values_n,
    HEADS: tl.constexpr, FEATURES: tl.constexpr, WIDTH: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = row % HEADS
    batch, begin, end, chunk = find_document(row // HEADS, cu_seqlens, offsets, length, per_document, PACKED)
    features, columns = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M), tl.program_id(2) * BLOCK_K + tl.arange(0, BLOCK_K)
    is_feature = features < FEATURES
    keys += batch * keys_b + head * keys_h
    values += batch * values_b + head * values_h
    maximum += (batch * HEADS + head) * length

    s = load_tile(total + row * FEATURES * WIDTH, features, WIDTH, columns, is_feature, WIDTH)
    z = tl.load(weight + row * FEATURES + features, mask=is_feature, other=0.0)
    arriving = tl.load(start + row)
    for i in range(tl.cdiv(end - begin, CHUNK)):
        here = (chunk + i) * HEADS + head
        store_tile(totals + here * FEATURES * WIDTH, features, WIDTH, columns, is_feature, s, WIDTH)
        if tl.program_id(2) == 0:
            tl.store(weights + here * FEATURES + features, z, mask=is_feature)
        positions = begin + i * CHUNK + tl.arange(0, CHUNK)
        valid = positions < end
        leaving = tl.load(maximum + tl.minimum(begin + i * CHUNK + CHUNK, end) - 1)
        m = tl.load(maximum + positions, mask=valid, other=0.0)
        k = load_tile(keys, positions, keys_n, features, valid, FEATURES)
        v = load_tile(values, positions, values_n, columns, valid, WIDTH)
        k = k * tl.exp(tl.where(valid, m - leaving, float("-inf")))[:, None]
        s = s * tl.exp(arriving - leaving) + dot(tl.trans(k.to(v.dtype)), v)
        z = z * tl.exp(arriving - leaving) + tl.sum(k, 0)
        arriving = leaving
    store_tile(last_total + row * FEATURES * WIDTH, features, WIDTH, columns, is_feature, s, WIDTH)
    if tl.program_id(2) == 0:
        tl.store(last_weight + row * FEATURES + features, z, mask=is_feature)


@triton.jit
def _before(maximum, start, begin, first):
    """The running maximum before position ``first`` of a document that begins at ``begin``."""
    arriving = tl.load(start)
    if first > begin:
        arriving = tl.load(maximum + first - 1)
    return arriving


@triton.jit
def _decay(m, valid, CHUNK: tl.constexpr):
    """exp(m_j - m_i) at (i, j) for keys j up to i, else 0."""
    i, j = tl.arange(0, CHUNK)[:, None], tl.arange(0, CHUNK)[None, :]
    return tl.exp(tl.where((i >= j) & valid[:, None], m[None, :] - m[:, None], float("-inf")))


@triton.jit(do_not_specialize=["length", "per_document"])
def output_kernel(
    queries, keys, values, maximum, start, totals, weights, outputs, inverses, cu_seqlens, table, length, per_document,
    queries_b, queries_h, queries_n, keys_b, keys_h, keys_n, values_b, values_h, values_n, outputs_b, outputs_h, outputs_n,
    HEADS: tl.constexpr, FEATURES: tl.constexpr, WIDTH: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    tiles: tl.constexpr = tl.cdiv(WIDTH, BLOCK_K)
    chunk, head = tl.program_id(0).to(tl.int64) // tiles, tl.program_id(1).to(tl.int64)
    document, batch, begin, first, stop = find_chunk(chunk, cu_seqlens, table, length, per_document, PACKED, CHUNK)
    if document < 0:
        return
    columns = tl.program_id(0) % tiles * BLOCK_K + tl.arange(0, BLOCK_K)
    positions = first + tl.arange(0, CHUNK)
    valid = positions < stop
    queries += batch * queries_b + head * queries_h
    keys += batch * keys_b + head * keys_h
    line = (batch * HEADS + head) * length
    here = chunk * HEADS + head

    scores = tl.zeros([CHUNK, CHUNK], tl.float32)
    numerator = tl.zeros([CHUNK, BLOCK_K], tl.float32)
    normaliser = tl.zeros([CHUNK], tl.float32)
    for feature in range(0, FEATURES, BLOCK_M):
        features = feature + tl.arange(0, BLOCK_M)
        is_feature = features < FEATURES
        q = load_tile(queries, positions, queries_n, features, valid, FEATURES)
        k = load_tile(keys, positions, keys_n, features, valid, FEATURES)
        s, scale = shrink(load_tile(totals + here * FEATURES * WIDTH, features, WIDTH, columns, is_feature, WIDTH), q.dtype)
        z = tl.load(weights + here * FEATURES + features, mask=is_feature, other=0.0)
        scores += dot(q, tl.trans(k))
        numerator += dot(q, s) * scale
        normaliser += tl.sum(q * z[None, :], 1)
    m = tl.load(maximum + line + positions, mask=valid, other=0.0)
    arriving = _before(maximum + line, start + document * HEADS + head, begin, first)
    carried = tl.exp(tl.where(valid, arriving - m, float("-inf")))
    scores *= _decay(m, valid, CHUNK)
    v = load_tile(values + batch * values_b + head * values_h, positions, values_n, columns, valid, WIDTH)
    normaliser = normaliser * carried + tl.sum(scores, 1)
    some = tl.abs(normaliser) > NOTHING
    inverse = tl.where(some, 1.0 / tl.where(some, normaliser, 1.0), 0.0)
    scores, scale = shrink_rows(scores, v.dtype)
    output = (numerator * carried[:, None] + dot(scores, v) * scale) * inverse[:, None]
    store_tile(outputs + batch * outputs_b + head * outputs_h, positions, outputs_n, columns, valid, output, WIDTH)
    if tl.program_id(0) % tiles == 0:
        tl.store(inverses + line + positions, inverse, mask=valid)


@triton.jit(do_not_specialize=["length", "per_document"])
def reverse_kernel(
    queries, gradients, slopes, inverses, maximum, start, grad_total, grad_weight, grad_totals, grad_weights, first_total, first_weight,
    cu_seqlens, offsets, length, per_document, queries_b, queries_h, queries_n, gradients_b, gradients_h, gradients_n,
    HEADS: tl.constexpr, FEATURES: tl.constexpr, WIDTH: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = row % HEADS
    batch, begin, end, chunk = find_document(row // HEADS, cu_seqlens, offsets, length, per_document, PACKED)
    features, columns = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M), tl.program_id(2) * BLOCK_K + tl.arange(0, BLOCK_K)
    is_feature = features < FEATURES
    queries += batch * queries_b + head * queries_h
    gradients += batch * gradients_b + head * gradients_h
    line = (batch * HEADS + head) * length

    ds = load_tile(grad_total + row * FEATURES * WIDTH, features, WIDTH, columns, is_feature, WIDTH)
    dz = tl.load(grad_weight + row * FEATURES + features, mask=is_feature, other=0.0)
    count = tl.cdiv(end - begin, CHUNK)
    for i in range(count):
        here = (chunk + count - 1 - i) * HEADS + head
        store_tile(grad_totals + here * FEATURES * WIDTH, features, WIDTH, columns, is_feature, ds, WIDTH)
        if tl.program_id(2) == 0:
            tl.store(grad_weights + here * FEATURES + features, dz, mask=is_feature)
        first = begin + (count - 1 - i) * CHUNK
        positions = first + tl.arange(0, CHUNK)
        valid = positions < end
        arriving = _before(maximum + line, start + row, begin, first)
        leaving = tl.load(maximum + line + tl.minimum(first + CHUNK, end) - 1)
        m = tl.load(maximum + line + positions, mask=valid, other=0.0)
        read = tl.exp(tl.where(valid, arriving - m, float("-inf"))) * tl.load(inverses + line + positions, mask=valid, other=0.0)
        slope = tl.load(slopes + line + positions, mask=valid, other=0.0)
        q = load_tile(queries, positions, queries_n, features, valid, FEATURES)
        do = load_tile(gradients, positions, gradients_n, columns, valid, WIDTH)
        g, scale = shrink(do * read[:, None], q.dtype)
        ds = ds * tl.exp(arriving - leaving) + dot(tl.trans(q), g) * scale
        dz = dz * tl.exp(arriving - leaving) + tl.sum(q * (read * slope)[:, None], 0)
    store_tile(first_total + row * FEATURES * WIDTH, features, WIDTH, columns, is_feature, ds, WIDTH)
    if tl.program_id(2) == 0:
        tl.store(first_weight + row * FEATURES + features, dz, mask=is_feature)


@triton.jit(do_not_specialize=["length", "per_document"])
def features_kernel(
    queries, keys, values, gradients, slopes, inverses, maximum, start, totals, weights, grad_totals, grad_weights, grad_queries, grad_keys,
    cu_seqlens, table, length, per_document, queries_b, queries_h, queries_n, keys_b, keys_h, keys_n, values_b, values_h, values_n,
    gradients_b, gradients_h, gradients_n, grad_queries_b, grad_queries_h, grad_queries_n, grad_keys_b, grad_keys_h, grad_keys_n,
    HEADS: tl.constexpr, FEATURES: tl.constexpr, WIDTH: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    tiles: tl.constexpr = tl.cdiv(FEATURES, BLOCK_M)
    chunk, head = tl.program_id(0).to(tl.int64) // tiles, tl.program_id(1).to(tl.int64)
    document, batch, begin, first, stop = find_chunk(chunk, cu_seqlens, table, length, per_document, PACKED, CHUNK)
    if document < 0:
        return
    features = tl.program_id(0) % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    is_feature = features < FEATURES
    positions = first + tl.arange(0, CHUNK)
    valid = positions < stop
    values += batch * values_b + head * values_h
    gradients += batch * gradients_b + head * gradients_h
    line = (batch * HEADS + head) * length
    here = chunk * HEADS + head

    weighed = tl.zeros([CHUNK, CHUNK], tl.float32)  # the gradient of (q_i k_j) exp(m_j - m_i), times the normaliser of i
    dq = tl.zeros([CHUNK, BLOCK_M], tl.float32)
    dk = tl.zeros([CHUNK, BLOCK_M], tl.float32)
    for column in range(0, WIDTH, BLOCK_K):
        columns = column + tl.arange(0, BLOCK_K)
        v = load_tile(values, positions, values_n, columns, valid, WIDTH)
        do = load_tile(gradients, positions, gradients_n, columns, valid, WIDTH)
        weighed += dot(do, tl.trans(v))
        s, scale = shrink(load_tile(totals + here * FEATURES * WIDTH, features, WIDTH, columns, is_feature, WIDTH), v.dtype)
        dq += dot(do, tl.trans(s)) * scale
        ds, scale = shrink(load_tile(grad_totals + here * FEATURES * WIDTH, features, WIDTH, columns, is_feature, WIDTH), v.dtype)
        dk += dot(v, tl.trans(ds)) * scale
    m = tl.load(maximum + line + positions, mask=valid, other=0.0)
    inverse = tl.load(inverses + line + positions, mask=valid, other=0.0)
    slope = tl.load(slopes + line + positions, mask=valid, other=0.0)
    arriving = _before(maximum + line, start + document * HEADS + head, begin, first)
    leaving = tl.load(maximum + line + stop - 1)
    carried = tl.exp(tl.where(valid, arriving - m, float("-inf")))
    kept = tl.exp(tl.where(valid, m - leaving, float("-inf")))
    z = tl.load(weights + here * FEATURES + features, mask=is_feature, other=0.0)
    dz = tl.load(grad_weights + here * FEATURES + features, mask=is_feature, other=0.0)
    weighed = (weighed + slope[:, None]) * _decay(m, valid, CHUNK)
    q = load_tile(queries + batch * queries_b + head * queries_h, positions, queries_n, features, valid, FEATURES)
    k = load_tile(keys + batch * keys_b + head * keys_h, positions, keys_n, features, valid, FEATURES)

    w, scale = shrink_rows(weighed, k.dtype)
    dq = (dot(w, k) * scale + (dq + slope[:, None] * z[None, :]) * carried[:, None]) * inverse[:, None]
    w, scale = shrink(weighed * inverse[:, None], q.dtype)
    dk = dot(tl.trans(w), q) * scale + (dk + dz[None, :]) * kept[:, None]
    store_tile(grad_queries + batch * grad_queries_b + head * grad_queries_h, positions, grad_queries_n, features, valid, dq, FEATURES)
    store_tile(grad_keys + batch * grad_keys_b + head * grad_keys_h, positions, grad_keys_n, features, valid, dk, FEATURES)


@triton.jit(do_not_specialize=["length", "per_document"])
def values_kernel(
    queries, keys, gradients, inverses, maximum, grad_totals, grad_values, cu_seqlens, table, length, per_document,
    queries_b, queries_h, queries_n, keys_b, keys_h, keys_n, gradients_b, gradients_h, gradients_n,
    grad_values_b, grad_values_h, grad_values_n,
    HEADS: tl.constexpr, FEATURES: tl.constexpr, WIDTH: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    tiles: tl.constexpr = tl.cdiv(WIDTH, BLOCK_K)
    chunk, head = tl.program_id(0).to(tl.int64) // tiles, tl.program_id(1).to(tl.int64)
    document, batch, _, first, stop = find_chunk(chunk, cu_seqlens, table, length, per_document, PACKED, CHUNK)
    if document < 0:
        return
    columns = tl.program_id(0) % tiles * BLOCK_K + tl.arange(0, BLOCK_K)
    positions = first + tl.arange(0, CHUNK)
    valid = positions < stop
    queries += batch * queries_b + head * queries_h
    keys += batch * keys_b + head * keys_h
    line = (batch * HEADS + head) * length
    here = chunk * HEADS + head

    scores = tl.zeros([CHUNK, CHUNK], tl.float32)
    dv = tl.zeros([CHUNK, BLOCK_K], tl.float32)
    for feature in range(0, FEATURES, BLOCK_M):
        features = feature + tl.arange(0, BLOCK_M)
        q = load_tile(queries, positions, queries_n, features, valid, FEATURES)
        k = load_tile(keys, positions, keys_n, features, valid, FEATURES)
        ds = load_tile(grad_totals + here * FEATURES * WIDTH, features, WIDTH, columns, features < FEATURES, WIDTH)
        ds, scale = shrink(ds, k.dtype)
        scores += dot(q, tl.trans(k))
        dv += dot(k, ds) * scale
    m = tl.load(maximum + line + positions, mask=valid, other=0.0)
    inverse = tl.load(inverses + line + positions, mask=valid, other=0.0)
    kept = tl.exp(tl.where(valid, m - tl.load(maximum + line + stop - 1), float("-inf")))
    do = load_tile(gradients + batch * gradients_b + head * gradients_h, positions, gradients_n, columns, valid, WIDTH)
    scores, scale = shrink(scores * _decay(m, valid, CHUNK) * inverse[:, None], do.dtype)
    dv = dot(tl.trans(scores), do) * scale + dv * kept[:, None]
    store_tile(grad_values + batch * grad_values_b + head * grad_values_h, positions, grad_values_n, columns, valid, dv, WIDTH)
