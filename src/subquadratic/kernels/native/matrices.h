// Products of matrices that are gone through more than once: operands are packed first, as the processor multiplies fastest. And what a layer
// of many rows and few weights is made of: blocks of rows, of equal size.
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
static operand right_turned_together(long depth, long columns, const float *from, long step, float *memory) {
    operand whole = operand_in(memory, depth);
#pragma omp for schedule(static)
    for (long at = 0; at < columns; at += PANEL)
        right_turned(depth, least(PANEL, columns - at), from + at * step, step, memory + right_numbers(at, depth));
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

// How many rows a block has, so that blocks are alike.
static long block_of(long rows) {
    long blocks = (rows + BLOCK - 1) / BLOCK;
    return blocks ? (rows + blocks - 1) / blocks : 1;
}

#endif
