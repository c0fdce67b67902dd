// Channels (i, i + K/2) of each row as the parts of complex numbers, times those of another tensor, or their conjugates: rotary positions.
#include "tensor.h"

typedef struct {
    rows queries, keys, output; // x, y and their product, (B, H, N, K)
    int64_t batch, heads, length, width, conjugate, threads;
} turn_of;

void complex_product(const turn_of *t) {
    long half = t->width / 2;
    float sign = t->conjugate ? -1 : 1;
#pragma omp parallel for schedule(static) num_threads(t->threads)
    for (long at = 0; at < t->batch * t->length; at++)
        for (long head = 0; head < t->heads; head++) {
            const float *a = row_of(&t->queries, at / t->length, head, at % t->length), *b = a + half;
            const float *c = row_of(&t->keys, at / t->length, head, at % t->length), *d = c + half;
            float *real = row_of(&t->output, at / t->length, head, at % t->length), *imaginary = real + half;
            long i = 0;
            for (; i + LANES <= half; i += LANES) {
                vec turned = load(d + i) * sign;
                store(real + i, load(a + i) * load(c + i) - load(b + i) * turned);
                store(imaginary + i, load(b + i) * load(c + i) + load(a + i) * turned);
            }
            for (; i < half; i++) {
                float turned = d[i] * sign;
                real[i] = a[i] * c[i] - b[i] * turned;
                imaginary[i] = b[i] * c[i] + a[i] * turned;
            }
        }
}
