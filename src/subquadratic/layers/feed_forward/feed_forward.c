// A position-wise feed-forward layer, forward and backward:
//
//     y = a W^T + c with a = gelu(x U^T + b),   gated: a = gelu(x U1^T + b1) * (x U2^T + b2)
//
// Kept for backward is what comes before the activation, and nothing else: dx = g U with g = (dy W) * gelu'(.), dU = g^T x, dW = dy^T a, for
// which a is made again; of a gated layer both maps add to dx.
//
// Loop order: threads pack the weights together, then each takes row blocks (backward: its shares, a row block at a time) and goes through
// the inner width slab by slab; a slab's products come one after another, so that a and g exist for one slab of one row block at a time.
// Caches: y of a row block and its slab of a, or dx and the slabs of a and g, are for the second cache: without a matrix unit a slab
// of 252 rows is 274 KB with 16 lanes, and 256 channels of y are about as much. The packed weights are read once for each row block, from
// the last cache or memory; so are, and written, the sums of the weights' gradients.
//
// T rows (batch and length together), D width in, F inner width, E width out. A gated layer has two maps to F: gates, then what they gate.
#include "slab.h"

typedef struct {
    const float *x, *expand, *expand_bias, *contract, *contract_bias; // (T, D), (maps F, D), (maps F,), (E, F), (E,)
    float *y, *inner;                                                 // (T, E); (T, maps, padded_to_16(F)), null: not kept
    const float *d_y;                                                 // (T, E)
    float *d_x, *d_expand, *d_expand_bias, *d_contract, *d_contract_bias; // null: not asked for; of the weights, all or none
    float *packed; // right operands of the weights: maps (D, F) and (F, E) forward, maps (F, D) and (E, F) backward
    float *sums;   // gradients of the weights from each share of the rows: (shares, maps D F' + E F' + maps F' + E') with F', E' padded to 16
    int64_t rows, dim, wide, out, maps, shares, threads; // T, D, F, E
} feed_forward;

int feed_forward_forward(const feed_forward *f) {
    int failed = 0;
    long dim = f->dim, wide = f->wide, out = f->out, maps = f->maps, step = padded_to_16(out), inner_step = padded_to_16(wide);
    long block = row_block_of((f->rows + f->threads - 1) / f->threads);
#pragma omp parallel num_threads(f->threads)
    {
        operand expand[2], contract;
        for (long map = 0; map < maps; map++)
            expand[map] = right_transposed_together(dim, wide, f->expand + map * wide * dim, dim, f->packed + map * right_numbers(wide, dim));
        contract = right_transposed_together(wide, out, f->contract, wide, f->packed + maps * right_numbers(wide, dim));
        long operands = unit_numbers(ROW_BLOCK, dim) + unit_numbers(ROW_BLOCK, SLAB);
        space s = space_of(2 * ROW_BLOCK * STEP + maps * inner_step + ROW_BLOCK * step + operands, &failed);
#pragma omp barrier
        if (!failed) {
            float *bias = take(&s, maps * inner_step), *y = take(&s, ROW_BLOCK * step), *x_memory = take(&s, unit_numbers(ROW_BLOCK, dim));
            slab inner = {.maps = maps, .wide = inner_step, .gates = take(&s, ROW_BLOCK * STEP), .active = take(&s, ROW_BLOCK * STEP)};
            inner.active_memory = take(&s, unit_numbers(ROW_BLOCK, SLAB));
            for (long map = 0; map < maps; map++) {
                memset(bias + map * inner_step, 0, inner_step * 4);
                copy(bias + map * inner_step, f->expand_bias + map * wide, wide);
            }
            tiles_begin();
#pragma omp for schedule(dynamic)
            for (long at = 0; at < f->rows; at += block) {
                long rows = inner.rows = least(block, f->rows - at);
                operand x = left_of(rows, dim, f->x + at * dim, dim, x_memory);
                for (long first = 0; first < wide; first += SLAB) {
                    operand maps_here[2] = {operand_at(expand[0], first, 0)};
                    if (maps == 2) maps_here[1] = operand_at(expand[1], first, 0);
                    inner.width = least(SLAB, wide - first), inner.bias = bias + first;
                    inner.kept = f->inner ? f->inner + at * maps * inner_step + first : NULL;
                    forward_slab(&inner, dim, x, maps_here);
                    multiply(rows, out, inner.width, inner.active_rows, operand_at(contract, 0, first), y, step, first > 0);
                }
                for (long i = 0; i < rows; i++) {
                    float *to = f->y + (at + i) * out;
                    long c = 0;
                    for (; c + LANES <= out; c += LANES) store(to + c, load(y + i * step + c) + load(f->contract_bias + c));
                    for (; c < out; c++) to[c] = y[i * step + c] + f->contract_bias[c];
                }
            }
            tiles_end();
        }
        free(s.start);
    }
    return failed;
}

typedef struct {
    float *d_expand, *d_contract, *d_expand_bias, *d_contract_bias; // of a share; d_expand lies (maps, D, F)
    float *d_y, *d_x;                                               // (B, E); (B, D)
    float *d_y_rows, *d_y_transposed, *x_transposed;                // memory for operands
    operand expand[2], contract;
    slab inner;
    long y_step, x_step;
} work;

static void backward_row_block(const feed_forward *f, work *w, long at, long rows) {
    long dim = f->dim, wide = f->wide, out = f->out, x_step = padded_to_16(dim), inner_step = padded_to_16(wide);
    slab *inner = &w->inner;
    for (long i = 0; i < rows; i++) copy(w->d_y + i * w->y_step, f->d_y + (at + i) * out, out);
    operand d_y = left_of(rows, out, w->d_y, w->y_step, w->d_y_rows), d_y_transposed, x_transposed;
    if (f->d_expand) {
        add_rows(rows, out, w->d_y, w->y_step, w->d_contract_bias);
        d_y_transposed = left_transposed(out, rows, w->d_y, w->y_step, w->d_y_transposed);
        x_transposed = left_transposed(dim, rows, f->x + at * dim, dim, w->x_transposed);
    }
    inner->rows = rows;
    for (long first = 0; first < wide; first += SLAB) {
        long width = inner->width = least(SLAB, wide - first);
        inner->kept = f->inner + at * f->maps * inner_step + first;
        inner->sums = f->d_expand ? w->d_expand_bias + first : NULL;
        backward_slab(inner, out, d_y, operand_at(w->contract, first, 0));
        for (long map = 0; map < f->maps; map++) {
            if (f->d_x)
                multiply(rows, dim, width, inner->slopes_rows[map], operand_at(w->expand[map], 0, first), w->d_x, x_step, first + map > 0);
            if (f->d_expand)
                multiply(dim, width, rows, x_transposed, inner->slopes_right[map], w->d_expand + map * dim * inner_step + first, inner_step, 1);
        }
        if (f->d_expand) multiply(out, width, rows, d_y_transposed, inner->active_right, w->d_contract + first, inner_step, 1);
    }
    for (long i = 0; f->d_x && i < rows; i++) copy(f->d_x + (at + i) * dim, w->d_x + i * x_step, dim);
}

static long numbers_for_operands(long dim, long out, long maps) {
    return unit_numbers(ROW_BLOCK, out) + unit_numbers(out, ROW_BLOCK) + unit_numbers(dim, ROW_BLOCK) + maps * unit_numbers(ROW_BLOCK, SLAB) +
           (1 + maps) * right_numbers(SLAB, ROW_BLOCK);
}

int feed_forward_backward(const feed_forward *f) {
    int failed = 0;
    long dim = f->dim, wide = f->wide, out = f->out, maps = f->maps, x_step = padded_to_16(dim), inner_step = padded_to_16(wide);
    long d_contract = maps * dim * inner_step, d_expand_bias = d_contract + out * inner_step, d_contract_bias = d_expand_bias + maps * inner_step;
    long each = d_contract_bias + padded_to_16(out), share_rows = (f->rows + f->shares - 1) / f->shares, block = row_block_of(share_rows);
#pragma omp parallel num_threads(f->threads)
    {
        work w = {.y_step = padded_to_16(out) + 16, .x_step = x_step};
        for (long map = 0; map < maps; map++)
            w.expand[map] = right_together(wide, dim, f->expand + map * wide * dim, dim, f->packed + map * right_numbers(dim, wide));
        w.contract = right_together(out, wide, f->contract, wide, f->packed + maps * right_numbers(dim, wide));
        space s = space_of(ROW_BLOCK * (x_step + w.y_step + STEP + maps * STEP) + maps * STEP + numbers_for_operands(dim, out, maps), &failed);
#pragma omp barrier
        if (!failed) {
            w.d_x = take(&s, ROW_BLOCK * x_step), w.d_y = take(&s, ROW_BLOCK * w.y_step);
            w.d_y_rows = take(&s, unit_numbers(ROW_BLOCK, out)), w.d_y_transposed = take(&s, unit_numbers(out, ROW_BLOCK));
            w.x_transposed = take(&s, unit_numbers(dim, ROW_BLOCK));
            w.inner = (slab){.maps = maps, .wide = inner_step, .wants_rows = f->d_x != NULL};
            w.inner.block_sums = take(&s, maps * STEP), w.inner.active = take(&s, ROW_BLOCK * STEP);
            w.inner.slopes = take(&s, maps * ROW_BLOCK * STEP);
            w.inner.active_memory = take(&s, right_numbers(SLAB, ROW_BLOCK));
            for (long map = 0; map < maps; map++) {
                w.inner.slopes_memory[map] = take(&s, right_numbers(SLAB, ROW_BLOCK));
                w.inner.slopes_rows_memory[map] = take(&s, unit_numbers(ROW_BLOCK, SLAB));
            }
            memset(w.d_y, 0, ROW_BLOCK * w.y_step * 4);
            tiles_begin();
#pragma omp for schedule(static)
            for (long index = 0; index < f->shares; index++) {
                if (f->d_expand) {
                    w.d_expand = f->sums + index * each, w.d_contract = w.d_expand + d_contract;
                    w.d_expand_bias = w.d_expand + d_expand_bias, w.d_contract_bias = w.d_expand + d_contract_bias;
                    memset(w.d_expand, 0, each * 4);
                }
                for (long at = index * share_rows; at < least(f->rows, (index + 1) * share_rows); at += block)
                    backward_row_block(f, &w, at, least(block, least(f->rows, (index + 1) * share_rows) - at));
            }
            tiles_end();
        }
        free(s.start);
        if (f->d_expand && !failed) {
            for (long map = 0; map < maps; map++)
                add_shares_transposed(f->shares, dim, wide, f->sums + map * dim * inner_step, inner_step, each, f->d_expand + map * wide * dim);
            add_shares(f->shares, out, wide, f->sums + d_contract, inner_step, each, f->d_contract);
            for (long map = 0; map < maps; map++)
                add_shares(f->shares, 1, wide, f->sums + d_expand_bias + map * inner_step, 0, each, f->d_expand_bias + map * wide);
            add_shares(f->shares, 1, out, f->sums + d_contract_bias, 0, each, f->d_contract_bias);
        }
    }
    return failed;
}

const field_layout feed_forward_layout[] = {
    STRUCT(feed_forward), FIELD(feed_forward, x), FIELD(feed_forward, expand), FIELD(feed_forward, expand_bias),
    FIELD(feed_forward, contract), FIELD(feed_forward, contract_bias), FIELD(feed_forward, y), FIELD(feed_forward, inner),
    FIELD(feed_forward, d_y), FIELD(feed_forward, d_x), FIELD(feed_forward, d_expand), FIELD(feed_forward, d_expand_bias),
    FIELD(feed_forward, d_contract), FIELD(feed_forward, d_contract_bias), FIELD(feed_forward, packed), FIELD(feed_forward, sums),
    FIELD(feed_forward, rows), FIELD(feed_forward, dim), FIELD(feed_forward, wide), FIELD(feed_forward, out), FIELD(feed_forward, maps),
    FIELD(feed_forward, shares), FIELD(feed_forward, threads), END,
};
