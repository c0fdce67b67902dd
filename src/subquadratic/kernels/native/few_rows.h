// Linear maps of few rows, y = x W^T + b, which take as long as reading the weights (F, D): once, as they lie.
//
// Of fewer rows than LEAST_TURNED each sum of products is made along the vector. More rows are turned, and lie along the vector themselves: a
// product then needs neither sums across it nor packed weights.
// T rows, D width in, F width out; `high` is T, padded.
#ifndef SUBQUADRATIC_FEW_ROWS_H
#define SUBQUADRATIC_FEW_ROWS_H

#include "tensor.h"

#define LEAST_TURNED 13
#define OUTPUTS 48 // of a block, which one thread makes: whole tiles
#define MAPS 4     // that read the same, at most

// Maps that read the same.
typedef struct {
    const float *x, *weight[MAPS], *bias[MAPS]; // (T, D); (F_j, D); (F_j,), null: none
    float *y[MAPS];                             // (T, F_j)
    int64_t out[MAPS], rows, dim, maps, threads;
} few_rows;
int few_rows_maps(const few_rows *m);

// A feed-forward layer, gated where maps is 2.
typedef struct {
    const float *x, *expand, *expand_bias, *contract, *contract_bias; // (T, D), (maps F, D), (maps F,), (E, F), (E,)
    float *y, *inner;                                                 // (T, E); few_numbers(T, (maps + 1) F): before the activation, and after
    int64_t rows, dim, wide, out, maps, threads;
} few_rows_forward;
int feed_forward_few_rows(const few_rows_forward *f);

INLINE long are_turned(long rows) { return rows >= LEAST_TURNED; }

// How many floats of memory (T, X) takes as it is mapped from and to.
INLINE long few_numbers(long rows, long width) { return (are_turned(rows) ? padded(rows) : rows) * width; }

// LANES sums of products, of `rows` by LANES / rows: those of the last row or output stand for what is beyond it.
INLINE vec dots(int rows, long few, long some, long dim, const float *x, const float *weight) {
    vec sums[LANES];
    const float *left[4], *right[LANES];
    int outs = LANES / rows;
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) left[r] = x + least(r, few - 1) * dim;
#pragma GCC unroll 16
    for (int o = 0; o < outs; o++) right[o] = weight + least(o, some - 1) * dim;
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) sums[i] = (vec){0};
    for (long k = 0; k < dim; k += LANES) {
        vec a[4], b;
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            a[r] = (vec){0};
            if (dim - k >= LANES) a[r] = load(left[r] + k);
            else memcpy(&a[r], left[r] + k, (dim - k) * 4);
        }
#pragma GCC unroll 16
        for (int o = 0; o < outs; o++) {
            b = (vec){0};
            if (dim - k >= LANES) b = load(right[o] + k);
            else memcpy(&b, right[o] + k, (dim - k) * 4);
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++) sums[r * outs + o] += a[r] * b;
        }
    }
    transpose_registers(sums);
    for (int i = 1; i < LANES; i++) sums[0] += sums[i];
    return sums[0];
}

INLINE void rows_of_dots(int rows, long few, long some, long dim, const float *x, const float *weight, const float *bias, float *y, long step) {
    int outs = LANES / rows;
    for (long o = 0; o < some; o += outs) {
        long wide = least(outs, some - o);
        vec sums = dots(rows, few, wide, dim, x, weight + o * dim);
        for (long r = 0; r < few; r++)
            for (long i = 0; i < wide; i++) y[r * step + o + i] = sums[r * outs + i] + (bias ? bias[o + i] : 0);
    }
}

// The outputs from `first` on, OUTPUTS of them or up to `out`: x (T, D) to y (T, F), rows `step` apart; or, of rows that are turned, x (D, high)
// to y (F, high).
static void map_some(long rows, long dim, long first, long out, const float *x, const float *weight, const float *bias, float *y, long step) {
    long some = least(OUTPUTS, out - first), high = padded(rows);
    weight += first * dim;
    if (bias) bias += first;
    if (are_turned(rows)) {
        y += first * high;
        product(some, high, dim, weight, dim, x, high, y, high, 0);
        for (long o = 0; bias && o < some; o++)
            for (long c = 0; c < high; c += LANES) store(y + o * high + c, load(y + o * high + c) + bias[o]);
        return;
    }
    y += first;
    for (; rows > 0; rows -= 4, x += 4 * dim, y += 4 * step) {
        if (rows == 1) rows_of_dots(1, 1, some, dim, x, weight, bias, y, step);
        else if (rows == 2) rows_of_dots(2, 2, some, dim, x, weight, bias, y, step);
        else rows_of_dots(4, least(4, rows), some, dim, x, weight, bias, y, step);
    }
}

#endif
