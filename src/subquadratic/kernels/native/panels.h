// Matrices in panels, as products read them: PANEL columns at a time, from the first row to the last. And what a layer of many rows and few
// weights is made of: blocks of rows, of equal size.
#ifndef SUBQUADRATIC_PANELS_H
#define SUBQUADRATIC_PANELS_H

#include "tensor.h"

#define PANEL (TILE_VECS * LANES)
#define BLOCK 252 // rows at most: whole tiles
#define WHOLE_PANELS(count) (((count) + PANEL - 1) / PANEL * PANEL)

// Weights (depth, columns) as panels (columns / PANEL, depth, PANEL), zeros behind the last; the panel at `column` is returned.
static float *panel_at(float *packed, long column, long depth) { return packed + column * depth; }

// One panel of (rows, width), as wide as that is.
static void fill_panel(long rows, long width, const float *from, long step, float *to) {
    for (long i = 0; i < rows; i++) {
        store(to + i * PANEL + PADDED(width) - LANES, (vec){0});
        copy(to + i * PANEL, from + i * step, width);
    }
}

static void pack(long depth, long columns, const float *from, float *to) {
#pragma omp for schedule(static)
    for (long at = 0; at < columns; at += PANEL)
        fill_panel(depth, least(PANEL, columns - at), from + at, columns, panel_at(to, at, depth));
}

// The same of the transpose of (columns, depth).
static void pack_turned(long depth, long columns, const float *from, float *to) {
#pragma omp for schedule(static)
    for (long at = 0; at < columns; at += PANEL) {
        long width = least(PANEL, columns - at);
        transpose(width, depth, PADDED(width), from + at * depth, depth, panel_at(to, at, depth), PANEL);
    }
}

// c (rows, columns) = [c +] a (rows, some) b (some, columns), b in panels `depth` apart.
static void by_panels(long rows, long columns, long some, const float *a, long a_step, const float *b, long depth, float *c, long c_step,
                      int add) {
    for (long at = 0; at < columns; at += PANEL, b += depth * PANEL)
        product(rows, PADDED(least(PANEL, columns - at)), some, a, a_step, b, PANEL, c + at, c_step, add);
}

// c (rows, columns) += a^T b, with a (depth, rows) and b (depth, columns) in panels.
static void add_turned(long rows, long columns, long depth, const float *a, long a_step, const float *b, float *c, long c_step) {
    for (long at = 0; at < columns; at += PANEL, b += depth * PANEL)
        product_turned(rows, PADDED(least(PANEL, columns - at)), depth, a, a_step, b, PANEL, c + at, c_step, 1);
}

static void add_rows(long rows, long width, const float *x, long step, float *sum) {
    for (long c = 0; c < width; c += LANES) {
        vec all = load(sum + c);
        for (long i = 0; i < rows; i++) all += load(x + i * step + c);
        store(sum + c, all);
    }
}

// How many rows a block has, so that blocks are alike.
static long block_of(long rows) {
    long blocks = (rows + BLOCK - 1) / BLOCK;
    return (rows + blocks - 1) / blocks;
}

// As `pack`, for one thread alone.
static void pack_own(long rows, long width, const float *from, float *to) {
    for (long at = 0; at < width; at += PANEL) fill_panel(rows, least(PANEL, width - at), from + at, width, panel_at(to, at, rows));
}

#endif
