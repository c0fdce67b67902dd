// A position-wise feed-forward layer of few rows, y = a W^T + c with a = gelu(x U^T + b), gated: a = gelu(x U1^T + b1) * (x U2^T + b2); maps
// as in few_rows.h.
//
// Loop order: outputs of the first map, some at a time, then what is active of these, then outputs of the second map, each divided among
// threads.
// Caches: x, a and a part of a weight stay in the first two; weights are read once, from elsewhere.
//
// T rows, D width in, F inner width, E width out. Rows that are turned lie along the vector: (X, high) instead of (T, X).
#include "few_rows.h"
#include "gelu.h"

// Some numbers after the activation, of `count` before it, and of a gated layer of what they gate.
static void activate(long count, const float *gates, const float *values, float *to) {
    for (long c = 0; c < count; c += LANES) {
        long some = least(LANES, count - c) * 4;
        vec x = {0}, by = all(1);
        memcpy(&x, gates + c, some);
        if (values) memcpy(&by, values + c, some);
        x = gelu_of(x) * by;
        memcpy(to + c, &x, some);
    }
}

int feed_forward_few_rows(const few_rows_forward *f) {
    int failed = 0;
    long rows = f->rows, dim = f->dim, wide = f->wide, out = f->out, high = padded(rows), all_of = f->maps * wide;
    long turned = are_turned(rows, f->expand_scale);
    long lines = turned ? wide : rows, line = turned ? high : wide, step = turned ? high : all_of; // the numbers before the activation
    float *active = f->inner + few_numbers(rows, all_of, turned);
    const float *values = f->maps == 2 ? f->inner + wide * (turned ? high : 1) : NULL;
#pragma omp parallel num_threads(f->threads)
    {
        space s = space_of(turned ? (dim + OUTPUTS) * high : 0, &failed);
        const float *x = f->x;
        float *y = NULL;
        if (turned && s.start) {
            float *columns = take(&s, dim * high);
            y = take(&s, OUTPUTS * high);
            transpose(rows, dim, high, x, dim, columns, high);
            x = columns;
        }
#pragma omp barrier
        if (!failed) {
#pragma omp for schedule(static)
            for (long first = 0; first < all_of; first += OUTPUTS)
                map_some(rows, dim, first, all_of, x, f->expand, f->expand_scale, f->expand_bias, f->inner, all_of);
#pragma omp for schedule(static)
            for (long i = 0; i < lines; i++) activate(line, f->inner + i * step, values ? values + i * step : NULL, active + i * line);
#pragma omp for schedule(static)
            for (long first = 0; first < out; first += OUTPUTS) {
                float *to = turned ? y - first * high : f->y;
                map_some(rows, wide, first, out, active, f->contract, f->contract_scale, f->contract_bias, to, out);
                long some = least(OUTPUTS, out - first);
                if (turned) transpose(some, rows, some, y, high, f->y + first, out);
            }
        }
        free(s.start);
    }
    return failed;
}

const field_layout few_rows_forward_layout[] = {
    STRUCT(few_rows_forward), FIELD(few_rows_forward, x), FIELD(few_rows_forward, expand), FIELD(few_rows_forward, contract),
    FIELD(few_rows_forward, expand_scale), FIELD(few_rows_forward, expand_bias), FIELD(few_rows_forward, contract_scale),
    FIELD(few_rows_forward, contract_bias), FIELD(few_rows_forward, y), FIELD(few_rows_forward, inner),
    FIELD(few_rows_forward, rows), FIELD(few_rows_forward, dim), FIELD(few_rows_forward, wide),
    FIELD(few_rows_forward, out), FIELD(few_rows_forward, maps), FIELD(few_rows_forward, threads), END,
};
