// A position-wise feed-forward layer, forward and backward. Its inner layer lives a block of rows and a slab of its width at a time, in a
// core's cache; kept for backward is what comes before the activation, and nothing else.
//
// T rows (batch and length together), D width in, F inner width, E width out. A gated layer has two maps to F: gates, then what they gate.
#include "gelu.h"
#include "matrices.h"

#define SLAB (UNIT_NUMBERS(1, 1) ? 8 * PANEL : 4 * PANEL) // of the inner width
#define STEP (SLAB + 16) // of a slab's rows: a power of two would put all of them into the same lines of the cache

typedef struct {
    const float *x, *expand, *expand_bias, *contract, *contract_bias; // (T, D), (maps F, D), (maps F,), (E, F), (E,)
    float *y, *inner;                                                 // (T, E); (T, maps, WIDE(F)), null: not kept
    const float *d_y;                                                 // (T, E)
    float *d_x, *d_expand, *d_expand_bias, *d_contract, *d_contract_bias; // null: not asked for; of the weights, all or none
    float *packed; // right operands of the weights: maps (D, F) and (F, E) forward, maps (F, D) and (E, F) backward
    float *sums;   // (shares, maps F WIDE(D) + E WIDE(F) + maps WIDE(F) + WIDE(E)): gradients of the weights from each share of the rows
    int64_t rows, dim, wide, out, maps, shares, threads; // T, D, F, E
} feed_forward;

void feed_forward_forward(const feed_forward *f) {
    long dim = f->dim, wide = f->wide, out = f->out, maps = f->maps, step = WIDE(out), inner_step = WIDE(wide);
    long block = block_of((f->rows + f->threads - 1) / f->threads);
#pragma omp parallel num_threads(f->threads)
    {
        operand expand[2], contract;
        for (long map = 0; map < maps; map++)
            expand[map] = right_turned_together(dim, wide, f->expand + map * wide * dim, dim, f->packed + map * RIGHT_NUMBERS(wide, dim));
        contract = right_turned_together(wide, out, f->contract, wide, f->packed + maps * RIGHT_NUMBERS(wide, dim));
        space s = space_of(maps * BLOCK * STEP + maps * inner_step + BLOCK * step + UNIT_NUMBERS(BLOCK, dim) + UNIT_NUMBERS(BLOCK, SLAB));
        float *slab = take(&s, maps * BLOCK * STEP), *bias = take(&s, maps * inner_step), *y = take(&s, BLOCK * step);
        float *x_memory = take(&s, UNIT_NUMBERS(BLOCK, dim)), *slab_memory = take(&s, UNIT_NUMBERS(BLOCK, SLAB));
        for (long map = 0; map < maps; map++) {
            memset(bias + map * inner_step, 0, inner_step * 4);
            copy(bias + map * inner_step, f->expand_bias + map * wide, wide);
        }
        tiles_begin();
#pragma omp for schedule(dynamic)
        for (long at = 0; at < f->rows; at += block) {
            long rows = least(block, f->rows - at);
            operand x = left_of(rows, dim, f->x + at * dim, dim, x_memory);
            for (long first = 0; first < wide; first += SLAB) {
                long width = least(SLAB, wide - first);
                for (long map = 0; map < maps; map++)
                    multiply(rows, width, dim, x, part_of(expand[map], first, 0), slab + map * BLOCK * STEP, STEP, 0);
                for (long i = 0; i < rows; i++) {
                    float *row = slab + i * STEP, *kept = f->inner ? f->inner + (at + i) * maps * inner_step + first : NULL;
                    for (long c = 0; c < width; c += LANES) {
                        vec x = load(row + c) + load(bias + first + c), active = gelu_of(x);
                        if (kept) store(kept + c, x);
                        if (maps == 2) {
                            vec value = load(row + BLOCK * STEP + c) + load(bias + inner_step + first + c);
                            if (kept) store(kept + inner_step + c, value);
                            active *= value;
                        }
                        store(row + c, active);
                    }
                }
                multiply(rows, out, width, left_of(rows, width, slab, STEP, slab_memory), part_of(contract, 0, first), y, step, first > 0);
            }
            for (long i = 0; i < rows; i++) {
                float *to = f->y + (at + i) * out;
                long c = 0;
                for (; c + LANES <= out; c += LANES) store(to + c, load(y + i * step + c) + load(f->contract_bias + c));
                for (; c < out; c++) to[c] = y[i * step + c] + f->contract_bias[c];
            }
        }
        tiles_end();
        free(s.start);
    }
}

typedef struct {
    float *d_expand, *d_contract, *d_expand_bias, *d_contract_bias; // of a share
    float *d_y, *active, *slopes, *d_x;                             // (B, E); (B, STEP); (maps, B, STEP); (B, D)
    float *d_y_rows, *d_y_turned, *x, *slab_rows, *slab_turned, *slab_right; // memory for operands
    operand expand[2], contract;
    long y_step, x_step;
} work;

// From the gradient of the active slab (in slopes) that of what came before the activation; and the active slab.
static void through_activation(const feed_forward *f, const work *w, long at, long rows, long first, long width) {
    long inner_step = WIDE(f->wide);
    float sums[2][SLAB] = {0};
    for (long i = 0; i < rows; i++) {
        const float *kept = f->inner + (at + i) * f->maps * inner_step + first;
        float *slopes = w->slopes + i * STEP;
        for (long c = 0; c < width; c += LANES) {
            vec x = load(kept + c), density, share = normal_of(x, &density), active = x * share;
            vec given = load(slopes + c), slope = given * (share + x * density);
            if (f->maps == 2) {
                vec value = load(kept + inner_step + c), d_value = given * active;
                store(slopes + BLOCK * STEP + c, d_value);
                store(sums[1] + c, load(sums[1] + c) + d_value);
                active *= value, slope *= value;
            }
            store(w->active + i * STEP + c, active);
            store(slopes + c, slope);
            store(sums[0] + c, load(sums[0] + c) + slope);
        }
    }
    for (long map = 0; f->d_expand && map < f->maps; map++) add_rows(1, width, sums[map], 0, w->d_expand_bias + map * inner_step + first);
}

static void backward_block(const feed_forward *f, const work *w, long at, long rows) {
    long dim = f->dim, wide = f->wide, out = f->out, x_step = WIDE(dim);
    for (long i = 0; i < rows; i++) copy(w->d_y + i * w->y_step, f->d_y + (at + i) * out, out);
    operand d_y = left_of(rows, out, w->d_y, w->y_step, w->d_y_rows), d_y_turned, x;
    if (f->d_expand) {
        add_rows(rows, out, w->d_y, w->y_step, w->d_contract_bias);
        d_y_turned = left_turned(out, rows, w->d_y, w->y_step, w->d_y_turned);
        x = right_of(rows, dim, f->x + at * dim, dim, w->x);
    }
    for (long first = 0; first < wide; first += SLAB) {
        long width = least(SLAB, wide - first);
        multiply(rows, width, out, d_y, part_of(w->contract, first, 0), w->slopes, STEP, 0);
        through_activation(f, w, at, rows, first, width);
        for (long map = 0; map < f->maps; map++) {
            const float *slopes = w->slopes + map * BLOCK * STEP;
            if (f->d_x)
                multiply(rows, dim, width, left_of(rows, width, slopes, STEP, w->slab_rows), part_of(w->expand[map], 0, first), w->d_x, x_step,
                         first + map > 0);
            if (f->d_expand)
                multiply(width, dim, rows, left_turned(width, rows, slopes, STEP, w->slab_turned), x,
                         w->d_expand + (map * wide + first) * x_step, x_step, 1);
        }
        if (f->d_expand)
            multiply(out, width, rows, d_y_turned, right_of(rows, width, w->active, STEP, w->slab_right), w->d_contract + first, WIDE(wide),
                     1);
    }
    for (long i = 0; f->d_x && i < rows; i++) copy(f->d_x + (at + i) * dim, w->d_x + i * x_step, dim);
}

static long numbers_for_operands(long dim, long out) {
    return UNIT_NUMBERS(BLOCK, out) + UNIT_NUMBERS(out, BLOCK) + RIGHT_NUMBERS(dim, BLOCK) + UNIT_NUMBERS(BLOCK, SLAB) +
           UNIT_NUMBERS(SLAB, BLOCK) + RIGHT_NUMBERS(SLAB, BLOCK);
}

void feed_forward_backward(const feed_forward *f) {
    long dim = f->dim, wide = f->wide, out = f->out, maps = f->maps, x_step = WIDE(dim);
    long each = maps * wide * x_step + out * WIDE(wide) + maps * WIDE(wide) + WIDE(out);
    long share = (f->rows + f->shares - 1) / f->shares, block = block_of(share);
    long d_contract = maps * wide * x_step, d_expand_bias = d_contract + out * WIDE(wide), d_contract_bias = d_expand_bias + maps * WIDE(wide);
#pragma omp parallel num_threads(f->threads)
    {
        work w = {.y_step = WIDE(out) + 16, .x_step = x_step};
        for (long map = 0; map < maps; map++)
            w.expand[map] = right_together(wide, dim, f->expand + map * wide * dim, dim, f->packed + map * RIGHT_NUMBERS(dim, wide));
        w.contract = right_together(out, wide, f->contract, wide, f->packed + maps * RIGHT_NUMBERS(dim, wide));
        space s = space_of(BLOCK * (x_step + w.y_step + STEP + maps * STEP) + numbers_for_operands(dim, out));
        w.d_x = take(&s, BLOCK * x_step), w.d_y = take(&s, BLOCK * w.y_step);
        w.active = take(&s, BLOCK * STEP), w.slopes = take(&s, maps * BLOCK * STEP);
        w.d_y_rows = take(&s, UNIT_NUMBERS(BLOCK, out)), w.d_y_turned = take(&s, UNIT_NUMBERS(out, BLOCK));
        w.x = take(&s, RIGHT_NUMBERS(dim, BLOCK)), w.slab_rows = take(&s, UNIT_NUMBERS(BLOCK, SLAB));
        w.slab_turned = take(&s, UNIT_NUMBERS(SLAB, BLOCK)), w.slab_right = take(&s, RIGHT_NUMBERS(SLAB, BLOCK));
        memset(w.d_y, 0, BLOCK * w.y_step * 4);
        tiles_begin();
#pragma omp for schedule(static)
        for (long index = 0; index < f->shares; index++) {
            if (f->d_expand) {
                w.d_expand = f->sums + index * each, w.d_contract = w.d_expand + d_contract;
                w.d_expand_bias = w.d_expand + d_expand_bias, w.d_contract_bias = w.d_expand + d_contract_bias;
                memset(w.d_expand, 0, each * 4);
            }
            for (long at = index * share; at < least(f->rows, (index + 1) * share); at += block)
                backward_block(f, &w, at, least(block, least(f->rows, (index + 1) * share) - at));
        }
        tiles_end();
        free(s.start);
        if (f->d_expand) {
            add_shares(f->shares, maps * wide, dim, f->sums, x_step, each, f->d_expand);
            add_shares(f->shares, out, wide, f->sums + d_contract, WIDE(wide), each, f->d_contract);
            for (long map = 0; map < maps; map++)
                add_shares(f->shares, 1, wide, f->sums + d_expand_bias + map * WIDE(wide), 0, each, f->d_expand_bias + map * wide);
            add_shares(f->shares, 1, out, f->sums + d_contract_bias, 0, each, f->d_contract_bias);
        }
    }
}
