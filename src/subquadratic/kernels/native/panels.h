// Products of matrices of which the right one lies in panels, in the order in which a product reads it.
#ifndef SUBQUADRATIC_PANELS_H
#define SUBQUADRATIC_PANELS_H

#include "tensor.h"

// A left operand lies somewhere as it is; a right one in panels (columns / PANEL, depth, PANEL), zeros behind the last, or as it is too.
typedef struct {
    const float *at;
    long row, column; // steps: of a left operand from number to number, of a right one from panel to panel
} operand;

#define PANEL (TILE_VECS * LANES)
#define ROW_BLOCK 252 // whole tiles

// How many floats of memory an operand takes: one that is packed, and one that is so for a matrix unit alone.
INLINE long right_numbers(long columns, long depth) { return round_up(columns, PANEL) * depth; }
INLINE long unit_numbers(long count, long depth) { return 0; }

INLINE operand operand_in(float *memory, long depth) { return (operand){memory, PANEL, depth * PANEL}; }

// A right operand from the column `at` on, a multiple of PANEL, and the depth `deep`.
INLINE operand operand_at(operand x, long at, long deep) { return (operand){x.at + at / PANEL * x.column + deep * x.row, x.row, x.column}; }

// A left operand (rows, depth), and its transpose (depth, rows).
INLINE operand left_of(long rows, long depth, const float *from, long step, float *memory) { return (operand){from, step, 1}; }
INLINE operand left_transposed(long rows, long depth, const float *from, long step, float *memory) { return (operand){from, 1, step}; }

// A right operand (depth, columns) that is gone through too seldom for packing it into panels.
INLINE operand right_once(long depth, long columns, const float *from, long step, float *memory) { return (operand){from, step, PANEL}; }

// A right operand (depth, columns), and its transpose (columns, depth).
static operand right_of(long depth, long columns, const float *from, long step, float *memory) {
    for (long at = 0; at < columns; at += PANEL) {
        float *panel = memory + at * depth;
        long width = least(PANEL, columns - at);
        for (long i = 0; i < depth; i++) {
            store(panel + i * PANEL + padded(width) - LANES, (vec){0});
            copy(panel + i * PANEL, from + i * step + at, width);
        }
    }
    return operand_in(memory, depth);
}
static operand right_transposed(long depth, long columns, const float *from, long step, float *memory) {
    for (long at = 0; at < columns; at += PANEL) {
        long width = least(PANEL, columns - at);
        transpose(width, depth, padded(width), from + at * step, step, memory + at * depth, PANEL);
    }
    return operand_in(memory, depth);
}

// c (rows, columns) = [c +] a (rows, depth) b (depth, columns); c has room for whole vectors.
static void multiply(long rows, long columns, long depth, operand a, operand b, float *c, long c_step, int add) {
    for (long at = 0; at < columns; at += PANEL) {
        long width = padded(least(PANEL, columns - at));
        const float *panel = operand_at(b, at, 0).at;
        if (a.column == 1) product(rows, width, depth, a.at, a.row, panel, b.row, c + at, c_step, add);
        else product_transposed(rows, width, depth, a.at, a.column, panel, b.row, c + at, c_step, add);
    }
}

// Nothing is to be set up.
static void tiles_begin(void) {}
static void tiles_end(void) {}

#endif
