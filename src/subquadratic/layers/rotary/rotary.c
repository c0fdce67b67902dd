// Channels (i, i + K/2) of each row as the parts of complex numbers, times those of another tensor, or their conjugates: rotary positions.
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
