// Linear maps of many rows, and the sums over rows that their weights' gradients are, where the processor has a matrix unit. Without one
// PyTorch's matrix library is as fast.
//
// T rows, D width in, F width out.
#include "matrices.h"

int has_matrix_unit(void) {
#ifdef SUBQUADRATIC_MATRIX_UNIT_H
    return 1;
#else
    return 0;
#endif
}

#ifdef SUBQUADRATIC_MATRIX_UNIT_H

#define DEEP 512        // of the depth at a time
#define DEEP_OF_SUM 128 // likewise, where it is the rows: both operands stay in the second cache
#define HIGH 128        // of the rows

typedef struct {
    const float *x, *weight, *bias;              // (T, D); (F, D), or (D, F) if turned; (F,), null: none
    const float *other;                          // (T, F)
    float *y, *row_sum;                          // (T, F); of a sum (F, D), and other's rows added up (F,), null: not wanted
    float *packed, *sums;                        // RIGHT_NUMBERS(F, D) numbers; (shares, F WIDE(D) + WIDE(F))
    int64_t rows, dim, out, x_step, weight_step, other_step, turned, shares, threads;
} map;

void linear_map(const map *m) {
    long high = least(HIGH, WHOLE((m->rows + m->threads - 1) / m->threads, SIDE));
#pragma omp parallel num_threads(m->threads)
    {
        operand weight;
        if (m->turned) weight = right_together(m->dim, m->out, m->weight, m->weight_step, m->packed);
        else weight = right_turned_together(m->dim, m->out, m->weight, m->weight_step, m->packed);
        space s = space_of(UNIT_NUMBERS(HIGH, DEEP));
        tiles_begin();
#pragma omp for schedule(dynamic)
        for (long at = 0; at < m->rows; at += high) {
            long rows = least(high, m->rows - at);
            for (long deep = 0; deep < m->dim; deep += DEEP) {
                long some = least(DEEP, m->dim - deep);
                operand x = left_of(rows, some, m->x + at * m->x_step + deep, m->x_step, s.start);
                multiply_onto(rows, m->out, some, x, part_of(weight, 0, deep), m->bias, m->y + at * m->out, m->out, deep > 0);
            }
        }
        tiles_end();
        free(s.start);
    }
}

// y = other^T x, and the sum of other's rows beside it.
void sum_of_outer_products(const map *m) {
    long wide = WIDE(m->dim), each = m->out * wide + WIDE(m->out), share = WHOLE((m->rows + m->shares - 1) / m->shares, DEPTH);
#pragma omp parallel num_threads(m->threads)
    {
        space s = space_of(RIGHT_NUMBERS(m->dim, DEEP_OF_SUM) + UNIT_NUMBERS(HIGH, DEEP_OF_SUM));
        float *right = take(&s, RIGHT_NUMBERS(m->dim, DEEP_OF_SUM)), *left = take(&s, UNIT_NUMBERS(HIGH, DEEP_OF_SUM));
        tiles_begin();
#pragma omp for schedule(static)
        for (long index = 0; index < m->shares; index++) {
            float *sums = m->sums + index * each, *row_sum = sums + m->out * wide;
            long end = least(m->rows, (index + 1) * share);
            memset(index * share >= end ? sums : row_sum, 0, (index * share >= end ? each : WIDE(m->out)) * 4);
            for (long at = index * share; at < end; at += DEEP_OF_SUM) {
                long some = least(DEEP_OF_SUM, end - at);
                operand x = right_of(some, m->dim, m->x + at * m->x_step, m->x_step, right);
                for (long first = 0; first < m->out; first += HIGH) {
                    long high = least(HIGH, m->out - first);
                    operand other = left_turned(high, some, m->other + at * m->other_step + first, m->other_step, left);
                    multiply(high, m->dim, some, other, x, sums + first * wide, wide, at > index * share);
                    for (long i = 0; m->row_sum && i < some; i++)
                        add_to(row_sum + first, m->other + (at + i) * m->other_step + first, high);
                }
            }
        }
        tiles_end();
        free(s.start);
        add_shares(m->shares, m->out, m->dim, m->sums, wide, each, m->y);
        if (m->row_sum) add_shares(m->shares, 1, m->out, m->sums + m->out * wide, 0, each, m->row_sum);
    }
}

#endif
