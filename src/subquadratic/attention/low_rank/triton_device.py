"""The device code of slot_attention.py: six kernels, and what they share.

`e`, `f` are the weights E, F of a chunk's positions in a block of slots, `ks`, `vs` those slots before the chunk, `s` scores, `p` their
softmax, and `dx` is the gradient of x. `a` = tril(q k^T), `b` = tril(do v^T). One program holds whole heads: they are narrow.

Axes: B batch, H heads, J heads of keys and values (H or 1), N length, K head width, V width of values, R slots, G chunks, C chunk length,
P documents (B when not packed).
"""
# mypy: disallow-untyped-defs=False
# (device code has no types that Python knows)

import triton
import triton.language as tl

from ...kernels.triton.common import dot, find_chunk, find_document, load_tile, shrink, shrink_rows, store_tile


@triton.jit(do_not_specialize=["length", "per_document"])
def slots_kernel(
    weights, rows, start, slots, last, cu_seqlens, offsets, length, per_document, weights_b, weights_n, rows_b, rows_h, rows_n,
    HEADS: tl.constexpr, SLOTS: tl.constexpr, WIDTH: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """The slots before each chunk, and after the last: running sums of weights^T rows."""
    row = tl.program_id(0).to(tl.int64)
    head = row % HEADS
    batch, begin, end, chunk = find_document(row // HEADS, cu_seqlens, offsets, length, per_document, PACKED)
    names, columns = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R), tl.program_id(2) * BLOCK_K + tl.arange(0, BLOCK_K)
    is_slot = names < SLOTS
    s = load_tile(start + row * SLOTS * WIDTH, names, WIDTH, columns, is_slot, WIDTH)
    for i in range(tl.cdiv(end - begin, CHUNK)):
        here = (chunk + i) * HEADS + head
        store_tile(slots + here * SLOTS * WIDTH, names, WIDTH, columns, is_slot, s, WIDTH)
        positions = begin + i * CHUNK + tl.arange(0, CHUNK)
        valid = positions < end
        w = load_tile(weights + batch * weights_b, positions, weights_n, names, valid, SLOTS)
        x = load_tile(rows + batch * rows_b + head * rows_h, positions, rows_n, columns, valid, WIDTH)
        s += dot(tl.trans(w), x)
    store_tile(last + row * SLOTS * WIDTH, names, WIDTH, columns, is_slot, s, WIDTH)


@triton.jit(do_not_specialize=["per_document"])
def reverse_kernel(
    sums, grad_last, grad_first, cu_seqlens, offsets, length, per_document,
    HEADS: tl.constexpr, SIZE: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """What each chunk asks of the slots becomes, in place, what all later chunks ask of them."""
    row = tl.program_id(0).to(tl.int64)
    _, begin, end, chunk = find_document(row // HEADS, cu_seqlens, offsets, length, per_document, PACKED)
    names = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = names < SIZE
    later = tl.load(grad_last + row * SIZE + names, mask=inside, other=0.0)
    count = tl.cdiv(end - begin, CHUNK)
    for i in range(count):
        place = sums + ((chunk + count - 1 - i) * HEADS + row % HEADS) * SIZE + names
        own = tl.load(place, mask=inside, other=0.0)
        tl.store(place, later, mask=inside)
        later += own
    tl.store(grad_first + row * SIZE + names, later, mask=inside)


@triton.jit
def _past(x, CHUNK: tl.constexpr):
    """(C, C) with zeros above the diagonal."""
    i, j = tl.arange(0, CHUNK)[:, None], tl.arange(0, CHUNK)[None, :]
    return tl.where(i >= j, x, 0.0)


@triton.jit
def _scores(q, a, e, ks, SCALE: tl.constexpr, PRECISION: tl.constexpr):
    """Exponents: both factors in float32 (or TF32), since an error of theirs is one of the weights' logarithm."""
    own = tl.dot(a, e.to(tl.float32), input_precision=PRECISION)
    return (tl.dot(q.to(tl.float32), tl.trans(ks), input_precision=PRECISION) + own) * SCALE


@triton.jit
def _weights(q, do, a, b, b_scale, e, f, ks, vs, level, slope, inside, SCALE: tl.constexpr, PRECISION: tl.constexpr):
    """p and ds of a chunk and a block of slots, formed again from the kept log of the normaliser."""
    p = tl.where(inside, tl.exp(_scores(q, a, e, ks, SCALE, PRECISION) - level[:, None]), 0.0)
    vs, vs_scale = shrink(vs, do.dtype)
    dp = dot(do, tl.trans(vs)) * vs_scale + dot(b, f) * b_scale
    return p, p * (dp + slope[:, None]) * SCALE


@triton.jit(do_not_specialize=["length", "per_document"])
def output_kernel(
    queries, keys, values, key_weights, value_weights, key_slots, value_slots, outputs, levels, cu_seqlens, table, length, per_document,
    queries_b, queries_h, queries_n, keys_b, keys_h, keys_n, values_b, values_h, values_n, key_weights_b, key_weights_n,
    value_weights_b, value_weights_n, outputs_b, outputs_h, outputs_n,
    HEADS: tl.constexpr, GROUP: tl.constexpr, SLOTS: tl.constexpr, WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
    SCALE: tl.constexpr, PRECISION: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    chunk, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    document, batch, _, first, stop = find_chunk(chunk, cu_seqlens, table, length, per_document, PACKED, CHUNK)
    if document < 0:
        return
    shared = head // GROUP
    here = chunk * (HEADS // GROUP) + shared
    positions = first + tl.arange(0, CHUNK)
    valid = positions < stop
    columns, value_columns = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_V)
    q = load_tile(queries + batch * queries_b + head * queries_h, positions, queries_n, columns, valid, WIDTH)
    k = load_tile(keys + batch * keys_b + shared * keys_h, positions, keys_n, columns, valid, WIDTH)
    a = _past(dot(q, tl.trans(k)), CHUNK)

    peak = tl.full([CHUNK], float("-inf"), tl.float32)  # softmax over slots as it goes
    weight = tl.zeros([CHUNK], tl.float32)
    own = tl.zeros([CHUNK, CHUNK], tl.float32)
    output = tl.zeros([CHUNK, BLOCK_V], tl.float32)
    for slot in range(0, SLOTS, BLOCK_R):
        names = slot + tl.arange(0, BLOCK_R)
        is_slot = names < SLOTS
        e = load_tile(key_weights + batch * key_weights_b, positions, key_weights_n, names, valid, SLOTS)
        f = load_tile(value_weights + batch * value_weights_b, positions, value_weights_n, names, valid, SLOTS)
        ks = load_tile(key_slots + here * SLOTS * WIDTH, names, WIDTH, columns, is_slot, WIDTH)
        vs = load_tile(value_slots + here * SLOTS * VALUE_WIDTH, names, VALUE_WIDTH, value_columns, is_slot, VALUE_WIDTH)
        s = tl.where(is_slot[None, :], _scores(q, a, e, ks, SCALE, PRECISION), float("-inf"))
        higher = tl.maximum(peak, tl.max(s, 1))
        fade, p = tl.exp(peak - higher), tl.exp(s - higher[:, None])
        weight = weight * fade + tl.sum(p, 1)
        vs, vs_scale = shrink(vs, q.dtype)
        own = own * fade[:, None] + dot(p.to(f.dtype), tl.trans(f))
        output = output * fade[:, None] + dot(p.to(q.dtype), vs) * vs_scale
        peak = higher
    v = load_tile(values + batch * values_b + shared * values_h, positions, values_n, value_columns, valid, VALUE_WIDTH)
    own, own_scale = shrink_rows(_past(own, CHUNK), v.dtype)
    output = (output + dot(own, v) * own_scale) / weight[:, None]
    store_tile(outputs + batch * outputs_b + head * outputs_h, positions, outputs_n, value_columns, valid, output, VALUE_WIDTH)
    tl.store(levels + (batch * HEADS + head) * length + positions, peak + tl.log(weight), mask=valid)


@triton.jit(do_not_specialize=["length", "per_document"])
def slot_gradient_kernel(
    queries, keys, values, gradients, key_weights, value_weights, key_slots, value_slots, levels, slopes, key_sums, value_sums,
    cu_seqlens, table, length, per_document, queries_b, queries_h, queries_n, keys_b, keys_h, keys_n, values_b, values_h, values_n,
    gradients_b, gradients_h, gradients_n, key_weights_b, key_weights_n, value_weights_b, value_weights_n,
    HEADS: tl.constexpr, GROUP: tl.constexpr, SLOTS: tl.constexpr, WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
    SCALE: tl.constexpr, PRECISION: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """What a chunk's queries ask of the slots before it."""
    tiles: tl.constexpr = tl.cdiv(SLOTS, BLOCK_R)
    chunk, shared = tl.program_id(0).to(tl.int64) // tiles, tl.program_id(1).to(tl.int64)
    document, batch, _, first, stop = find_chunk(chunk, cu_seqlens, table, length, per_document, PACKED, CHUNK)
    if document < 0:
        return
    here = chunk * (HEADS // GROUP) + shared
    positions = first + tl.arange(0, CHUNK)
    valid = positions < stop
    names, columns, value_columns = tl.program_id(0) % tiles * BLOCK_R + tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_V)
    is_slot = names < SLOTS
    k = load_tile(keys + batch * keys_b + shared * keys_h, positions, keys_n, columns, valid, WIDTH)
    v = load_tile(values + batch * values_b + shared * values_h, positions, values_n, value_columns, valid, VALUE_WIDTH)
    e = load_tile(key_weights + batch * key_weights_b, positions, key_weights_n, names, valid, SLOTS)
    f = load_tile(value_weights + batch * value_weights_b, positions, value_weights_n, names, valid, SLOTS)
    ks = load_tile(key_slots + here * SLOTS * WIDTH, names, WIDTH, columns, is_slot, WIDTH)
    vs = load_tile(value_slots + here * SLOTS * VALUE_WIDTH, names, VALUE_WIDTH, value_columns, is_slot, VALUE_WIDTH)
    dks = tl.zeros([BLOCK_R, BLOCK_K], tl.float32)
    dvs = tl.zeros([BLOCK_R, BLOCK_V], tl.float32)
    for member in range(GROUP):
        head = shared * GROUP + member
        q = load_tile(queries + batch * queries_b + head * queries_h, positions, queries_n, columns, valid, WIDTH)
        do = load_tile(gradients + batch * gradients_b + head * gradients_h, positions, gradients_n, value_columns, valid, VALUE_WIDTH)
        level = tl.load(levels + (batch * HEADS + head) * length + positions, mask=valid, other=0.0)
        slope = tl.load(slopes + (batch * HEADS + head) * length + positions, mask=valid, other=0.0)
        a = _past(dot(q, tl.trans(k)), CHUNK)
        b, b_scale = shrink_rows(_past(dot(do, tl.trans(v)), CHUNK), do.dtype)
        p, ds = _weights(q, do, a, b, b_scale, e, f, ks, vs, level, slope, valid[:, None] & is_slot[None, :], SCALE, PRECISION)
        ds, ds_scale = shrink(ds, q.dtype)
        dks += dot(tl.trans(ds), q) * ds_scale
        dvs += dot(tl.trans(p.to(do.dtype)), do)
    store_tile(key_sums + here * SLOTS * WIDTH, names, WIDTH, columns, is_slot, dks, WIDTH)
    store_tile(value_sums + here * SLOTS * VALUE_WIDTH, names, VALUE_WIDTH, value_columns, is_slot, dvs, VALUE_WIDTH)


@triton.jit(do_not_specialize=["length", "per_document"])
def row_gradient_kernel(
    queries, keys, values, gradients, key_weights, value_weights, key_slots, value_slots, levels, slopes, grad_key_slots, grad_value_slots,
    grad_queries, grad_keys, grad_values, cu_seqlens, table, length, per_document,
    queries_b, queries_h, queries_n, keys_b, keys_h, keys_n, values_b, values_h, values_n, gradients_b, gradients_h, gradients_n,
    key_weights_b, key_weights_n, value_weights_b, value_weights_n, grad_queries_b, grad_queries_h, grad_queries_n,
    grad_keys_b, grad_keys_h, grad_keys_n, grad_values_b, grad_values_h, grad_values_n,
    HEADS: tl.constexpr, GROUP: tl.constexpr, SLOTS: tl.constexpr, WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
    SCALE: tl.constexpr, PRECISION: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Gradients of queries, keys and values, from the gradient of the slots after the chunk."""
    chunk, shared = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    document, batch, _, first, stop = find_chunk(chunk, cu_seqlens, table, length, per_document, PACKED, CHUNK)
    if document < 0:
        return
    here = chunk * (HEADS // GROUP) + shared
    positions = first + tl.arange(0, CHUNK)
    valid = positions < stop
    columns, value_columns = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_V)
    k = load_tile(keys + batch * keys_b + shared * keys_h, positions, keys_n, columns, valid, WIDTH)
    v = load_tile(values + batch * values_b + shared * values_h, positions, values_n, value_columns, valid, VALUE_WIDTH)
    dk = tl.zeros([CHUNK, BLOCK_K], tl.float32)
    dv = tl.zeros([CHUNK, BLOCK_V], tl.float32)
    for slot in range(0, SLOTS, BLOCK_R):
        names = slot + tl.arange(0, BLOCK_R)
        is_slot = names < SLOTS
        e = load_tile(key_weights + batch * key_weights_b, positions, key_weights_n, names, valid, SLOTS)
        f = load_tile(value_weights + batch * value_weights_b, positions, value_weights_n, names, valid, SLOTS)
        dks, scale = shrink(load_tile(grad_key_slots + here * SLOTS * WIDTH, names, WIDTH, columns, is_slot, WIDTH), e.dtype)
        dk += dot(e, dks) * scale
        dvs = load_tile(grad_value_slots + here * SLOTS * VALUE_WIDTH, names, VALUE_WIDTH, value_columns, is_slot, VALUE_WIDTH)
        dvs, scale = shrink(dvs, f.dtype)
        dv += dot(f, dvs) * scale
    for member in range(GROUP):
        head = shared * GROUP + member
        q = load_tile(queries + batch * queries_b + head * queries_h, positions, queries_n, columns, valid, WIDTH)
        do = load_tile(gradients + batch * gradients_b + head * gradients_h, positions, gradients_n, value_columns, valid, VALUE_WIDTH)
        level = tl.load(levels + (batch * HEADS + head) * length + positions, mask=valid, other=0.0)
        slope = tl.load(slopes + (batch * HEADS + head) * length + positions, mask=valid, other=0.0)
        a = _past(dot(q, tl.trans(k)), CHUNK)
        b, b_scale = shrink_rows(_past(dot(do, tl.trans(v)), CHUNK), do.dtype)
        dq = tl.zeros([CHUNK, BLOCK_K], tl.float32)
        da = tl.zeros([CHUNK, CHUNK], tl.float32)
        own = tl.zeros([CHUNK, CHUNK], tl.float32)
        for slot in range(0, SLOTS, BLOCK_R):
            names = slot + tl.arange(0, BLOCK_R)
            is_slot = names < SLOTS
            e = load_tile(key_weights + batch * key_weights_b, positions, key_weights_n, names, valid, SLOTS)
            f = load_tile(value_weights + batch * value_weights_b, positions, value_weights_n, names, valid, SLOTS)
            ks = load_tile(key_slots + here * SLOTS * WIDTH, names, WIDTH, columns, is_slot, WIDTH)
            vs = load_tile(value_slots + here * SLOTS * VALUE_WIDTH, names, VALUE_WIDTH, value_columns, is_slot, VALUE_WIDTH)
            p, ds = _weights(q, do, a, b, b_scale, e, f, ks, vs, level, slope, valid[:, None] & is_slot[None, :], SCALE, PRECISION)
            ds, ds_scale = shrink_rows(ds, q.dtype)
            ks, ks_scale = shrink(ks, q.dtype)
            dq += dot(ds, ks) * ds_scale * ks_scale
            da += dot(ds, tl.trans(e)) * ds_scale
            own += dot(p.to(f.dtype), tl.trans(f))
        rows, scale = shrink_rows(_past(da, CHUNK), k.dtype)
        dq += dot(rows, k) * scale
        store_tile(grad_queries + batch * grad_queries_b + head * grad_queries_h, positions, grad_queries_n, columns, valid, dq, WIDTH)
        rows, scale = shrink(_past(da, CHUNK), q.dtype)
        dk += dot(tl.trans(rows), q) * scale
        rows, scale = shrink(_past(own, CHUNK), do.dtype)
        dv += dot(tl.trans(rows), do) * scale
    store_tile(grad_keys + batch * grad_keys_b + shared * grad_keys_h, positions, grad_keys_n, columns, valid, dk, WIDTH)
    place = grad_values + batch * grad_values_b + shared * grad_values_h
    store_tile(place, positions, grad_values_n, value_columns, valid, dv, VALUE_WIDTH)


@triton.jit(do_not_specialize=["length", "per_document"])
def weight_gradient_kernel(
    queries, keys, values, gradients, key_weights, value_weights, key_slots, value_slots, levels, slopes, grad_key_slots, grad_value_slots,
    grad_key_weights, grad_value_weights, cu_seqlens, table, length, per_document,
    queries_b, queries_h, queries_n, keys_b, keys_h, keys_n, values_b, values_h, values_n, gradients_b, gradients_h, gradients_n,
    key_weights_b, key_weights_n, value_weights_b, value_weights_n,
    HEADS: tl.constexpr, GROUP: tl.constexpr, SLOTS: tl.constexpr, WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
    SCALE: tl.constexpr, PRECISION: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Gradients of E and F, summed over heads, (B, N, R) float32."""
    chunk = tl.program_id(0).to(tl.int64)
    document, batch, _, first, stop = find_chunk(chunk, cu_seqlens, table, length, per_document, PACKED, CHUNK)
    if document < 0:
        return
    positions = first + tl.arange(0, CHUNK)
    valid = positions < stop
    names, columns, value_columns = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_V)
    is_slot = names < SLOTS
    e = load_tile(key_weights + batch * key_weights_b, positions, key_weights_n, names, valid, SLOTS)
    f = load_tile(value_weights + batch * value_weights_b, positions, value_weights_n, names, valid, SLOTS)
    de = tl.zeros([CHUNK, BLOCK_R], tl.float32)
    df = tl.zeros([CHUNK, BLOCK_R], tl.float32)
    for head in range(HEADS):
        shared = head // GROUP
        here = chunk * (HEADS // GROUP) + shared
        q = load_tile(queries + batch * queries_b + head * queries_h, positions, queries_n, columns, valid, WIDTH)
        k = load_tile(keys + batch * keys_b + shared * keys_h, positions, keys_n, columns, valid, WIDTH)
        v = load_tile(values + batch * values_b + shared * values_h, positions, values_n, value_columns, valid, VALUE_WIDTH)
        do = load_tile(gradients + batch * gradients_b + head * gradients_h, positions, gradients_n, value_columns, valid, VALUE_WIDTH)
        level = tl.load(levels + (batch * HEADS + head) * length + positions, mask=valid, other=0.0)
        slope = tl.load(slopes + (batch * HEADS + head) * length + positions, mask=valid, other=0.0)
        ks = load_tile(key_slots + here * SLOTS * WIDTH, names, WIDTH, columns, is_slot, WIDTH)
        vs = load_tile(value_slots + here * SLOTS * VALUE_WIDTH, names, VALUE_WIDTH, value_columns, is_slot, VALUE_WIDTH)
        a = _past(dot(q, tl.trans(k)), CHUNK)
        b, b_scale = shrink_rows(_past(dot(do, tl.trans(v)), CHUNK), do.dtype)
        p, ds = _weights(q, do, a, b, b_scale, e, f, ks, vs, level, slope, valid[:, None] & is_slot[None, :], SCALE, PRECISION)
        # One scale a row of a and b is one a column of their transposes, which the other factor's rows take over.
        ds, ds_scale = shrink(ds, q.dtype)
        a, a_scale = shrink(a, q.dtype)
        de += dot(tl.trans(a), ds) * a_scale * ds_scale
        p, p_scale = shrink(p * b_scale, do.dtype)
        df += dot(tl.trans(b), p) * p_scale
        if head % GROUP == 0:
            dks, scale = shrink(load_tile(grad_key_slots + here * SLOTS * WIDTH, names, WIDTH, columns, is_slot, WIDTH), k.dtype)
            de += dot(k, tl.trans(dks)) * scale
            dvs = load_tile(grad_value_slots + here * SLOTS * VALUE_WIDTH, names, VALUE_WIDTH, value_columns, is_slot, VALUE_WIDTH)
            dvs, scale = shrink(dvs, v.dtype)
            df += dot(v, tl.trans(dvs)) * scale
    store_tile(grad_key_weights + batch * length * SLOTS, positions, SLOTS, names, valid, de, SLOTS)
    store_tile(grad_value_weights + batch * length * SLOTS, positions, SLOTS, names, valid, df, SLOTS)
