// Products of matrices that lie in a core's caches: a tile of the result stays in registers while the depth is gone through.
#ifndef SUBQUADRATIC_PRODUCT_H
#define SUBQUADRATIC_PRODUCT_H

#include "vector.h"

#if LANES == 16
#define TILE_ROWS 6
#define TILE_VECS 4
#else
#define TILE_ROWS 4
#define TILE_VECS (LANES == 8 ? 3 : 4)
#endif

typedef struct {
    const float *at;
    long row, column; // steps; one of them is 1
} left;

// c (rows, vecs * LANES) = [c +] a (rows, depth) b (depth, vecs * LANES), rows and vecs known when this is compiled.
INLINE void tile(int rows, int vecs, long depth, left a, const float *b, long b_step, float *c, long c_step, int add) {
    vec sum[8][TILE_VECS]; // rows of which the registers hold all that is counted
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vecs; v++) {
            sum[r][v] = (vec){0};
            if (add) __builtin_prefetch(c + r * c_step + v * LANES, 1); // it is needed last
        }
    for (long k = 0; k < depth; k++) {
        vec right[TILE_VECS];
#pragma GCC unroll 8
        for (int v = 0; v < vecs; v++) right[v] = load(b + k * b_step + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            vec one = all(a.at[r * a.row + k * a.column]);
#pragma GCC unroll 8
            for (int v = 0; v < vecs; v++) sum[r][v] += one * right[v];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vecs; v++) {
            float *to = c + r * c_step + v * LANES;
            store(to, add ? load(to) + sum[r][v] : sum[r][v]);
        }
}

// The same for any number of rows.
INLINE void column_of_tiles(int vecs, long rows, long depth, left a, const float *b, long b_step, float *c, long c_step, int add) {
    for (; rows >= TILE_ROWS; rows -= TILE_ROWS, a.at += TILE_ROWS * a.row, c += TILE_ROWS * c_step)
        tile(TILE_ROWS, vecs, depth, a, b, b_step, c, c_step, add);
    for (; rows >= 2; rows -= 2, a.at += 2 * a.row, c += 2 * c_step) tile(2, vecs, depth, a, b, b_step, c, c_step, add);
    if (rows) tile(1, vecs, depth, a, b, b_step, c, c_step, add);
}

INLINE void product_of(long rows, long columns, long depth, left a, const float *b, long b_step, float *c, long c_step, int add) {
    for (; columns >= TILE_VECS * LANES; columns -= TILE_VECS * LANES, b += TILE_VECS * LANES, c += TILE_VECS * LANES)
        column_of_tiles(TILE_VECS, rows, depth, a, b, b_step, c, c_step, add);
    if (columns >= 3 * LANES && TILE_VECS > 3) {
        column_of_tiles(3, rows, depth, a, b, b_step, c, c_step, add);
        return;
    }
    if (columns >= 2 * LANES) {
        column_of_tiles(2, rows, depth, a, b, b_step, c, c_step, add);
        columns -= 2 * LANES, b += 2 * LANES, c += 2 * LANES;
    }
    if (columns) column_of_tiles(1, rows, depth, a, b, b_step, c, c_step, add);
}

// c (rows, columns) = [c +] a (rows, depth) b (depth, columns); columns a multiple of LANES.
static __attribute__((noinline)) void product(
    long rows, long columns, long depth, const float *a, long a_step, const float *b, long b_step, float *c, long c_step, int add) {
    product_of(rows, columns, depth, (left){a, a_step, 1}, b, b_step, c, c_step, add);
}

// c (rows, columns) = [c +] a^T b, with a (depth, rows) and b (depth, columns); columns a multiple of LANES.
static __attribute__((noinline)) void product_transposed(
    long rows, long columns, long depth, const float *a, long a_step, const float *b, long b_step, float *c, long c_step, int add) {
    product_of(rows, columns, depth, (left){a, 1, a_step}, b, b_step, c, c_step, add);
}

// out[r * out_step] = [out +] sum over c of a (rows, columns) weights (columns,); columns a multiple of LANES.
static void weighted_rows(long rows, long columns, const float *a, long a_step, const float *weights, float *out, long out_step, int add) {
    for (long r = 0; r < rows; r += LANES) {
        vec sums[LANES];
        long high = rows - r < LANES ? rows - r : LANES;
        for (int i = 0; i < LANES; i++) {
            vec more = {0}; // where vectors are short, many of them are added up: in two sums, for the digits
            long c = 0;
            sums[i] = (vec){0};
            for (; LANES == 4 && i < high && c + LANES < columns; c += 2 * LANES) {
                sums[i] += load(a + (r + i) * a_step + c) * load(weights + c);
                more += load(a + (r + i) * a_step + c + LANES) * load(weights + c + LANES);
            }
            for (; i < high && c < columns; c += LANES) sums[i] += load(a + (r + i) * a_step + c) * load(weights + c);
            sums[i] += more;
        }
        transpose_registers(sums);
        vec sum = {0};
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) sum += sums[i];
        for (int i = 0; i < high; i++) out[(r + i) * out_step] = sum[i] + (add ? out[(r + i) * out_step] : 0);
    }
}

#endif
