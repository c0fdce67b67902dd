// A row block of a feed-forward layer and a slab, SLAB channels of its inner width: from the product before the activation to operands of the
// products after it, there and back. With a matrix unit the vector unit does it meanwhile, a few rows at a time as tiles are summed up, and
// the numbers go straight into operands; else slabs are written and read again.
#ifndef SUBQUADRATIC_FEED_FORWARD_SLAB_H
#define SUBQUADRATIC_FEED_FORWARD_SLAB_H

#include "gelu.h"
#include "matrices.h"

#ifdef MATRIX_UNIT
#define SLAB (8 * PANEL)
#else
#define SLAB (4 * PANEL)
#endif
#define STEP (SLAB + 16) // of a slab's rows: a power of two would put all of them into the same lines of the cache

typedef struct {
    long rows, width, maps, wide; // at hand; wide: from one map's numbers to the other's
    const float *bias;            // (maps, wide), from the slab's first channel on
    float *kept;                  // what comes before the activation (rows, maps, wide), likewise; null: not wanted
    float *sums;                  // gradients of the biases (maps, wide), likewise; null: no gradients of weights are wanted
    float *block_sums;            // (maps, STEP): with a matrix unit, those of the rows at hand alone
    int wants_rows;               // slopes as left operands
    float *gates, *active, *slopes;                               // (ROW_BLOCK, STEP) twice, (maps, ROW_BLOCK, STEP)
    float *active_memory, *slopes_memory[2], *slopes_rows_memory[2]; // for operands
    operand active_rows;                                          // (rows, width)
    operand active_right, slopes_right[2], slopes_rows[2];        // as (rows, width) to be multiplied from the left; slopes as left operands
} slab;

// Of a vector of channels of a row: what is active of these numbers before the activation (of a gated layer: gates, and what they gate).
INLINE vec activate(const slab *s, long i, long c, vec x, vec value) {
    float *kept = s->kept ? s->kept + i * s->maps * s->wide + c : NULL;
    x += load(s->bias + c);
    vec active = gelu_of(x);
    if (kept) store(kept, x);
    if (s->maps == 1) return active;
    value += load(s->bias + s->wide + c);
    if (kept) store(kept + s->wide, value);
    return active * value;
}

// What is active, and slopes (one for each map) from the gradient of that.
INLINE vec activate_back(const slab *s, long i, long c, vec given, vec slopes[2]) {
    const float *kept = s->kept + i * s->maps * s->wide + c;
    vec x = load(kept), density, phi = normal_of(x, &density), active = x * phi;
    slopes[0] = given * (phi + x * density);
    if (s->maps == 2) {
        vec value = load(kept + s->wide);
        slopes[1] = given * active;
        slopes[0] *= value, active *= value;
    }
    return active;
}

#ifdef MATRIX_UNIT

// Gradients of the biases from slopes: those of a row block are summed up by themselves, since thousands of rows added one by one to the
// sum of all would lose digits.
INLINE void add_to_biases(const slab *s, long map, long c, vec slopes) {
    float *sum = s->block_sums + map * STEP + c;
    store(sum, load(sum) + slopes);
}
static void begin_biases(const slab *s) { memset(s->block_sums, 0, s->maps * STEP * 4); }
static void end_biases(const slab *s) {
    for (long map = 0; s->sums && map < s->maps; map++) add_to(s->sums + map * s->wide, s->block_sums + map * STEP, s->width);
}

// Ask for what is kept of the tiles after these, below them or at the top of the next columns: the processor does not foresee that.
INLINE void ask_for_kept(const slab *s, const four *x, long row, int tile) {
    long at = x->at + 2 * SIDE < s->rows ? x->at + 2 * SIDE : 0, right = (at ? x->right : x->right + 2 * SIDE) + tile % 2 * SIDE;
    const float *kept = s->kept + least(at + tile / 2 * SIDE + row, s->rows - 1) * s->maps * s->wide + right;
    for (long map = 0; right < s->width && map < s->maps; map++) __builtin_prefetch(kept + map * s->wide, 0, 2);
}

INLINE void put_active(const four *x, long row, int tile) {
    slab *s = x->with;
    vec active[2];
#pragma GCC unroll 2
    for (int side = 0; side < 2; side++) {
        long i = x->at + tile / 2 * SIDE + row, c = x->right + side * SIDE;
        active[side] = (vec){0};
        if (!is_in(x, row, tile + side)) continue;
        vec sum = sum_at(x, tile + side, row);
        active[side] = s->maps == 1 ? activate(s, i, c, sum, sum) : activate(s, i, c, load(s->gates + i * STEP + c), sum);
    }
    put_left(x, row, tile, active, s->active_rows);
}

static __attribute__((noinline)) void put_slopes(const four *x, long row, int first) {
    slab *s = x->with;
    vec slopes[2][4], active[4];
#pragma GCC unroll 4
    for (int tile = 0; tile < 4; tile++) {
        long i = x->at + tile / 2 * SIDE + row, c = x->right + tile % 2 * SIDE;
        vec both[2] = {{0}, {0}};
        active[tile] = (vec){0};
        ask_for_kept(s, x, row, tile);
        if (is_in(x, row, tile)) active[tile] = activate_back(s, i, c, sum_at(x, tile, row), both);
        slopes[0][tile] = both[0], slopes[1][tile] = both[1];
    }
    for (long i = 0; s->sums && i < 2 && i * SIDE < x->columns; i++)
        for (long map = 0; map < s->maps; map++) add_to_biases(s, map, x->right + i * SIDE, slopes[map][i] + slopes[map][i + 2]);
    for (long map = 0; map < s->maps; map++) {
        if (s->wants_rows && s->sums) put_both(x, row, slopes[map], s->slopes_rows[map], s->slopes_right[map]);
        else if (s->sums) put_right(x, row, slopes[map], s->slopes_right[map]);
        for (int i = 0; !s->sums && i < 4; i += 2) put_left(x, row, i, slopes[map] + i, s->slopes_rows[map]);
    }
    if (s->sums) put_right(x, row, active, s->active_right);
}

// What is active of x (rows, depth) times the maps (depth, width). Gates fill whole tiles, with zeros: what stood there would become numbers of
// the next operand, and if they were none, all results would be made again.
static void forward_slab(slab *s, long depth, operand x, const operand *expand) {
    s->active_rows = operand_in(s->active_memory, s->width);
    if (s->maps == 2) multiply(s->rows, padded_to_16(s->width), depth, x, expand[0], s->gates, STEP, 0);
    multiply_then(s->rows, s->width, depth, x, expand[s->maps - 1], (put){put_active, 2}, s);
}

// Slopes, and what is active, from the gradient of the layer's output (rows, depth) and the map to it, (depth, width).
static void backward_slab(slab *s, long depth, operand d_y, operand contract) {
    for (long map = 0; map < s->maps; map++) {
        s->slopes_rows[map] = operand_in(s->slopes_rows_memory[map], s->width);
        s->slopes_right[map] = operand_in(s->slopes_memory[map], s->rows);
    }
    s->active_right = operand_in(s->active_memory, s->rows);
    begin_biases(s);
    multiply_then(s->rows, s->width, depth, d_y, contract, (put){put_slopes, 4}, s);
    end_biases(s);
}

#else

static void forward_slab(slab *s, long depth, operand x, const operand *expand) {
    if (s->maps == 2) multiply(s->rows, s->width, depth, x, expand[0], s->gates, STEP, 0);
    multiply(s->rows, s->width, depth, x, expand[s->maps - 1], s->active, STEP, 0);
    const float *gates = s->maps == 2 ? s->gates : s->active;
    for (long i = 0; i < s->rows; i++)
        for (long c = i * STEP; c < i * STEP + s->width; c += LANES)
            store(s->active + c, activate(s, i, c - i * STEP, load(gates + c), load(s->active + c)));
    s->active_rows = left_of(s->rows, s->width, s->active, STEP, s->active_memory);
}

static void backward_slab(slab *s, long depth, operand d_y, operand contract) {
    multiply(s->rows, s->width, depth, d_y, contract, s->slopes, STEP, 0);
    for (long i = 0; i < s->rows; i++)
        for (long c = i * STEP; c < i * STEP + s->width; c += LANES) {
            vec slopes[2];
            store(s->active + c, activate_back(s, i, c - i * STEP, load(s->slopes + c), slopes));
            for (long map = 0; map < s->maps; map++) store(s->slopes + map * ROW_BLOCK * STEP + c, slopes[map]);
        }
    for (long map = 0; map < s->maps; map++) {
        const float *slopes = s->slopes + map * ROW_BLOCK * STEP;
        if (s->sums) add_rows(s->rows, s->width, slopes, STEP, s->sums + map * s->wide);
        if (s->wants_rows) s->slopes_rows[map] = left_of(s->rows, s->width, slopes, STEP, s->slopes_rows_memory[map]);
        if (s->sums) s->slopes_right[map] = right_of(s->rows, s->width, slopes, STEP, s->slopes_memory[map]);
    }
    if (s->sums) s->active_right = right_of(s->rows, s->width, s->active, STEP, s->active_memory);
}

#endif

#endif
