// What step.c is told of one new token.
#ifndef SUBQUADRATIC_FAVOR_STEP_H
#define SUBQUADRATIC_FAVOR_STEP_H

#include <stdint.h>

typedef struct {
    const float *queries, *keys, *values; // (B, H, K), (B, H, K), (B, H, V)
    const float *turns;                   // cosines and sines by which queries and keys are turned first, (B or 1, K); null: they are not
    const uint8_t *live;                  // (B,), 1 = a real token; null: all are
    const float *projection;              // (M, K), as it was drawn
    const float *total, *weight, *maximum; // the state before: (B, H, M, V), (B, H, M), (B, H)
    float *output, *total_after, *weight_after, *maximum_after; // (B, H, V); the state after
    int64_t batch, heads, width, value_width, features, turns_step, threads;
    float nothing; // a normaliser below this has no key
} token;

int favor_step(const token *t);

#endif
