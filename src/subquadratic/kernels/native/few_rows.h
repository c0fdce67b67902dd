// Linear maps of few rows, y = x W^T + b, which take as long as reading the weights (F, D): once, as they lie.
//
// Of fewer rows than LEAST_TURNED each sum of products is made along the vector. More rows are turned, and lie along the vector themselves: a
// product then needs neither sums across it nor packed weights.
// Weights are float32, or int8 with a scale (F,) for each output, y = (x W^T) s + b. These become float32 in registers, and rows are not
// turned: a block of them stays in the first cache, and turned rows would take a float32 copy of it.
// T rows, D width in, F width out; `high` is T, padded.
#ifndef SUBQUADRATIC_FEW_ROWS_H
#define SUBQUADRATIC_FEW_ROWS_H

#include "tensor.h"

#define LEAST_TURNED 13
#define OUTPUTS 48 // of a block, which one thread makes: whole tiles
#define MAPS 4     // that read the same, at most

// Maps that read the same.
typedef struct {
    const float *x;                        // (T, D)
    const void *weight[MAPS];              // (F_j, D): float32, or int8
    const float *scale[MAPS], *bias[MAPS]; // (F_j,); null: the weights are float32; there is no bias
    float *y[MAPS];                        // (T, F_j)
    int64_t out[MAPS], rows, dim, maps, threads;
} few_rows;
int few_rows_maps(const few_rows *m);

// A feed-forward layer, gated where maps is 2.
typedef struct {
    const float *x;                                                           // (T, D)
    const void *expand, *contract;                                            // (maps F, D), (E, F): float32, or both int8
    const float *expand_scale, *expand_bias, *contract_scale, *contract_bias; // (maps F,), (E,); scales null: the weights are float32
    float *y, *inner; // (T, E); few_numbers(T, (maps + 1) F): before the activation, and after
    int64_t rows, dim, wide, out, maps, threads;
} few_rows_forward;
int feed_forward_few_rows(const few_rows_forward *f);

INLINE long are_turned(long rows, const float *scale) { return rows >= LEAST_TURNED && !scale; }

// How many floats of memory (T, X) takes as it is mapped from and to.
INLINE long few_numbers(long rows, long width, long turned) { return (turned ? padded(rows) : rows) * width; }

// Up to LANES weights of `bytes` each: 4, or 1 if they are int8.
INLINE vec weights_at(int bytes, const char *at, long count) {
    vec found = {0};
    int8_t some[LANES] = {0};
    if (bytes == 4 && count >= LANES) return load((const float *)at);
    if (count >= LANES) return load_int8((const int8_t *)at);
    memcpy(bytes == 4 ? (void *)&found : some, at, count * bytes);
    return bytes == 4 ? found : load_int8(some);
}

// Up to LANES products more in each of the sums.
INLINE void add_products(int rows, int bytes, long count, const float **left, const char **right, long k, vec *sums) {
    int outs = LANES / rows;
    vec a[4], b;
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        a[r] = (vec){0};
        if (count >= LANES) a[r] = load(left[r] + k);
        else memcpy(&a[r], left[r] + k, count * 4);
    }
#pragma GCC unroll 16
    for (int o = 0; o < outs; o++) {
        b = weights_at(bytes, right[o] + k * bytes, count);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) sums[r * outs + o] += a[r] * b;
    }
}

// LANES sums of products, of `rows` by LANES / rows: those of the last row or output stand for what is beyond it.
INLINE vec dots(int rows, int bytes, long few, long some, long dim, const float *x, const char *weight) {
    vec sums[LANES];
    const float *left[4];
    const char *right[LANES];
    int outs = LANES / rows;
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) left[r] = x + least(r, few - 1) * dim;
#pragma GCC unroll 16
    for (int o = 0; o < outs; o++) right[o] = weight + least(o, some - 1) * dim * bytes;
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) sums[i] = (vec){0};
    long k = 0;
    for (; k + LANES <= dim; k += LANES) {
        if (bytes == 1 && k % 64 == 0) // the rows that come next lie apart from these
#pragma GCC unroll 16
            for (int o = 0; o < outs; o++) __builtin_prefetch(right[o] + LANES * dim + k, 0, 2);
        add_products(rows, bytes, LANES, left, right, k, sums);
    }
    if (k < dim) add_products(rows, bytes, dim - k, left, right, k, sums);
    transpose_registers(sums);
    for (int i = 1; i < LANES; i++) sums[0] += sums[i];
    return sums[0];
}

INLINE void rows_of_dots(
    int rows, int bytes, long few, long some, long dim, const float *x, const char *weight, const float *scale, const float *bias, float *y,
    long step) {
    int outs = LANES / rows;
    for (long o = 0; o < some; o += outs) {
        long wide = least(outs, some - o);
        vec sums = dots(rows, bytes, few, wide, dim, x, weight + o * dim * bytes);
        for (long r = 0; r < few; r++)
            for (long i = 0; i < wide; i++) {
                float sum = sums[r * outs + i] * (bytes == 1 ? scale[o + i] : 1);
                y[r * step + o + i] = sum + (bias ? bias[o + i] : 0);
            }
    }
}

INLINE void all_rows_of_dots(
    int bytes, long rows, long some, long dim, const float *x, const char *weight, const float *scale, const float *bias, float *y, long step) {
    for (; rows > 0; rows -= 4, x += 4 * dim, y += 4 * step) {
        if (rows == 1) rows_of_dots(1, bytes, 1, some, dim, x, weight, scale, bias, y, step);
        else if (rows == 2) rows_of_dots(2, bytes, 2, some, dim, x, weight, scale, bias, y, step);
        else rows_of_dots(4, bytes, least(4, rows), some, dim, x, weight, scale, bias, y, step);
    }
}

// The outputs from `first` on, OUTPUTS of them or up to `out`: x (T, D) to y (T, F), rows `step` apart; or, of rows that are turned, x (D, high)
// to y (F, high).
static void map_some(
    long rows, long dim, long first, long out, const float *x, const void *weights, const float *scale, const float *bias, float *y, long step) {
    long some = least(OUTPUTS, out - first), high = padded(rows);
    const char *weight = (const char *)weights + first * dim * (scale ? 1 : 4);
    if (scale) scale += first;
    if (bias) bias += first;
    if (are_turned(rows, scale)) {
        y += first * high;
        product(some, high, dim, (const float *)weight, dim, x, high, y, high, 0);
        for (long o = 0; bias && o < some; o++)
            for (long c = 0; c < high; c += LANES) store(y + o * high + c, load(y + o * high + c) + bias[o]);
        return;
    }
    y += first;
    if (scale) all_rows_of_dots(1, rows, some, dim, x, weight, scale, bias, y, step);
    else all_rows_of_dots(4, rows, some, dim, x, weight, NULL, bias, y, step);
}

#endif
