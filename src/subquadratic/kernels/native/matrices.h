// Products of matrices that are read more than once: they are packed first, as the processor multiplies them fastest.
//
// An operand is a matrix in the form in which a product reads it, left or right of another: on panels.h, or with a matrix unit matrix_unit.h,
// it depends what that is. A panel is PANEL columns of a right operand over its whole depth: threads pack whole panels, and a part of a right
// operand begins at one. A row block is the rows of a layer that a thread takes through it at a time, at most ROW_BLOCK; all blocks of a layer
// but the last have the same number.
#ifndef SUBQUADRATIC_MATRICES_H
#define SUBQUADRATIC_MATRICES_H

#include "vector.h"

#ifdef MATRIX_UNIT
#ifdef EMULATED_TILES
#include "emulated_tiles.h"
#endif
#include "matrix_unit.h"
#else
#include "panels.h"
#endif

// Right operands by all threads of a parallel region.
static operand right_together(long depth, long columns, const float *from, long step, float *memory) {
    operand whole = operand_in(memory, depth);
#pragma omp for schedule(static)
    for (long at = 0; at < columns; at += PANEL)
        right_of(depth, least(PANEL, columns - at), from + at, step, memory + right_numbers(at, depth));
    return whole;
}
static operand right_transposed_together(long depth, long columns, const float *from, long step, float *memory) {
    operand whole = operand_in(memory, depth);
#pragma omp for schedule(static)
    for (long at = 0; at < columns; at += PANEL)
        right_transposed(depth, least(PANEL, columns - at), from + at * step, step, memory + right_numbers(at, depth));
    return whole;
}

// In four sums of these rows alone, added to the sum of all: added one by one to that, thousands of rows would lose digits.
static void add_rows(long rows, long width, const float *x, long step, float *sum) {
    for (long c = 0; c < width; c += LANES) {
        vec sums[4] = {{0}, {0}, {0}, {0}};
        for (long i = 0; i < rows; i++) sums[i % 4] += load(x + i * step + c);
        store(sum + c, load(sum + c) + ((sums[0] + sums[1]) + (sums[2] + sums[3])));
    }
}

// How many rows a row block has.
static long row_block_of(long rows) {
    long blocks = (rows + ROW_BLOCK - 1) / ROW_BLOCK;
    return blocks ? (rows + blocks - 1) / blocks : 1;
}

#endif
