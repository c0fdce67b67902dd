// Rotary positions (arXiv 2104.09864): channels (i, i + K/2) of each row are the parts of a complex number, z_i = x_i y_i, or x_i times the
// conjugate of y_i; y has the cosines and sines of a position, or is another tensor.
//
// Loop order: positions, divided among threads, then their heads, so that a y that all heads have in common is read once, and stays in the
// first cache; everything else is read and written once.
//
// B batch, H heads, N length, K head width.
#include "tensor.h"

typedef struct {
    rows queries, keys, output; // x, y and their product, (B, H, N, K)
    int64_t batch, heads, length, width, conjugate, threads;
} turn_of;

int complex_product(const turn_of *t) {
    float sign = t->conjugate ? -1 : 1;
#pragma omp parallel for schedule(static) num_threads(t->threads)
    for (long at = 0; at < t->batch * t->length; at++)
        for (long head = 0; head < t->heads; head++) {
            const float *x = row_of(&t->queries, at / t->length, head, at % t->length);
            const float *y = row_of(&t->keys, at / t->length, head, at % t->length);
            times_complex(t->width / 2, x, y, sign, row_of(&t->output, at / t->length, head, at % t->length));
        }
    return 0;
}

const field_layout rotary_layout[] = {
    STRUCT(turn_of), FIELD(turn_of, queries), FIELD(turn_of, keys), FIELD(turn_of, output), FIELD(turn_of, batch), FIELD(turn_of, heads),
    FIELD(turn_of, length), FIELD(turn_of, width), FIELD(turn_of, conjugate), FIELD(turn_of, threads), END,
};

const field_layout rows_layout[] = {
    STRUCT(rows), FIELD(rows, at), FIELD(rows, batch), FIELD(rows, head), FIELD(rows, row), END,
};
