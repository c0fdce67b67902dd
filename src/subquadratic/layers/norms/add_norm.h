// What add_norm.c is told of a residual sum and its norm.
#ifndef SUBQUADRATIC_ADD_NORM_H
#define SUBQUADRATIC_ADD_NORM_H

#include <stdint.h>

typedef struct {
    const float *x, *delta, *weight, *bias;      // (T, D) twice, delta null: nothing is added; (D,) twice
    float *sum, *y, *stats;                      // (T, D) twice, sum null without delta; mean and 1 / deviation of each row (T, 2)
    const float *d_sum, *d_y;                    // (T, D); d_sum null: none reaches the sum besides
    float *d_x, *d_weight, *d_bias, *sums;       // (T, D), (D,) twice, (shares, 2, padded_to_16(D))
    int64_t rows, dim, shares, threads;
    float epsilon;
} add_norm;

int add_norm_forward(const add_norm *a);

#endif
