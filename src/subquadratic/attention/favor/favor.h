// What the forms of FAVOR+ have in common: how tensors come in, and a chunk's features.
//
// Inside, a chunk lies with its positions along the vector: (K, C) for queries and keys, (M, C) for features, so that what belongs to a
// position (a maximum, a normaliser, a decay) is a vector operation, and no product needs its operands packed. A run is the consecutive
// positions of a row of the batch that attend to each other: a packed document, or the whole row.
// B batch, H heads, N length, C chunk, K width of queries and keys, V width of values, M features, R runs.
#ifndef SUBQUADRATIC_FAVOR_H
#define SUBQUADRATIC_FAVOR_H

#include "tensor.h"

typedef struct {
    rows queries, keys, values, output, d_output, d_queries, d_keys, d_values;
    const uint8_t *live;      // (B, N), 1 = a real token; null: all are
    int64_t live_step;
    const float *projection;  // (M, K) times K^(-1/4)
    const float *table;       // the same times log2(e)
    const int64_t *runs;      // (R, 5): row of the batch, start, stop, first mark, first summary kept
    int64_t run_count, heads, width, value_width, features, stride, shares, threads;
    float *total, *weight, *maximum; // the state of each run, (R, H, M, V), (R, H, M), (R, H) or (R, H, M): before, then after
    float *d_total, *d_weight;       // its gradient: after, then before
    float *normaliser;        // (B, H, N)
    int64_t length;           // N
    float *marks;             // (., H) running maximum before each chunk and after the last; null: nothing is kept
    float *sums;              // storage for what several shares of the positions sum up, each M (V + 32) + 64 numbers
    float *kept;              // (., H, M (V + 1)) summary before every `stride`th chunk
    float nothing, empty;     // a normaliser below this has no key; the maximum of no exponents
} favor;

// Zeros for positions that hold no token, in (X, C).
static void clear_dead(const uint8_t *live, long count, long width, float *x) {
    for (long j = 0; live && j < count; j++)
        for (long i = 0; !live[j] && i < width; i++) x[i * CHUNK + j] = 0;
}

// Values (C, step) with a one behind each real one, and zeros elsewhere.
static void values_and_one(const favor *f, const float *from, long step, const uint8_t *live, long count, float *to, long to_step) {
    for (long j = 0; j < CHUNK; j++) {
        long real = j < count && (!live || live[j]), width = real ? f->value_width : 0;
        float *row = to + j * to_step;
        for (long c = width / LANES * LANES; c < to_step; c += LANES) store(row + c, (vec){0});
        copy(row, from + j * step, width);
        row[f->value_width] = real;
    }
}

// Features (M, C) of x (K, C), relative to the largest of their position, whose exponent to base 2 is `top` (C,).
static void features_of(const favor *f, long columns, const float *x, float *out, float *top) {
    product(f->features, columns, f->width, f->table, f->width, x, CHUNK, out, CHUNK, 0);
    for (long c = 0; c < columns; c += LANES) {
        vec most = load(out + c);
        for (long m = 1; m < f->features; m++) most = larger(load(out + m * CHUNK + c), most);
        store(top + c, most);
    }
    for (long m = 0; m < f->features; m++)
        for (long c = 0; c < columns; c += LANES) store(out + m * CHUNK + c, exp2_of(load(out + m * CHUNK + c) - load(top + c)));
}

// Half the squared norm of keys as they are projected, (C,). In four sums, since it is an exponent: the error of one, to which each number
// of a large key adds its own, would be several times what rounding the whole costs.
static void half_squares(const favor *f, long columns, const float *keys, float *out) {
    for (long c = 0; c < columns; c += LANES) {
        vec sums[4] = {{0}, {0}, {0}, {0}};
        for (long i = 0; i < f->width; i++) sums[i % 4] += load(keys + i * CHUNK + c) * load(keys + i * CHUNK + c);
        store(out + c, ((sums[0] + sums[1]) + (sums[2] + sums[3])) * (0.5f / sqrtf(f->width)));
    }
}

// The state's two halves (M, V), (M) as one (M, step) with the weight as column V, and back.
static void join(const favor *f, const float *total, const float *weight, float *to, long step) {
    for (long m = 0; m < f->features; m++) {
        store(to + m * step + step - LANES, (vec){0});
        copy(to + m * step, total + m * f->value_width, f->value_width);
        to[m * step + f->value_width] = weight[m];
    }
}

static void split(const favor *f, const float *from, long step, float *total, float *weight) {
    for (long m = 0; m < f->features; m++) {
        copy(total + m * f->value_width, from + m * step, f->value_width);
        weight[m] = from[m * step + f->value_width];
    }
}

// out (M, step) += a (M, C) b (C, step), of which column V alone matters beyond the first V.
static void add_outer(const favor *f, long columns, const float *a, const float *b, float *out, long step) {
    if (f->value_width % LANES) {
        product(f->features, step, columns, a, CHUNK, b, step, out, step, 1);
        return;
    }
    float last[CHUNK] = {0};
    for (long j = 0; j < columns; j++) last[j] = b[j * step + f->value_width];
    product(f->features, f->value_width, columns, a, CHUNK, b, step, out, step, 1);
    weighted_rows(f->features, padded(columns), a, CHUNK, last, out + f->value_width, step, 1);
}

// Output of a chunk from numerators and normaliser, (V + 1, C): zero where there is no key. Keeps what was divided by.
static void write_ratio(const favor *f, long batch, long head, long at, long count, float *mixed) {
    long width = f->value_width;
    float over[CHUNK] = {0};
    for (long i = 0; i < count; i++) {
        float below = mixed[width * CHUNK + i];
        if (fabsf(below) <= f->nothing) below = INFINITY;
        if (f->normaliser) f->normaliser[(batch * f->heads + head) * f->length + at + i] = below;
        over[i] = 1 / below;
    }
    scale_columns(width, padded(count), mixed, over);
    transpose(width, count, width, mixed, CHUNK, row_of(&f->output, batch, head, at), f->output.row);
}

// The gradient of numerators and normaliser from that of their ratio: g (V + 1, C), g_rows (C, step); output (V, C) is scratch.
static void above_ratio(const favor *f, long batch, long head, long at, long count, float *g, float *g_rows, float *output) {
    long columns = padded(count), width = f->value_width, step = padded(width + 1);
    const float *below = f->normaliser + (batch * f->heads + head) * f->length + at;
    transpose(count, width, columns, row_of(&f->d_output, batch, head, at), f->d_output.row, g, CHUNK);
    transpose(count, width, columns, row_of(&f->output, batch, head, at), f->output.row, output, CHUNK);
    float over[CHUNK] = {0};
    for (long i = 0; i < count; i++) over[i] = 1 / below[i];
    for (long c = 0; c < columns; c += LANES) {
        vec sum = {0};
        for (long i = 0; i < width; i++) sum += load(g + i * CHUNK + c) * load(output + i * CHUNK + c);
        store(g + width * CHUNK + c, -sum);
    }
    scale_columns(width + 1, columns, g, over);
    transpose(width + 1, columns, step, g, CHUNK, g_rows, step);
}

// Gradients of a chunk's queries from those of their features; d_features and d_x (K, C) are written over.
static void queries_back(
    const favor *f, long batch, long head, long at, long count, const float *features, float *d_features, float *d_x) {
    for (long i = 0; i < f->features * CHUNK; i += LANES) store(d_features + i, load(d_features + i) * load(features + i));
    product_transposed(f->width, padded(count), f->features, f->projection, f->width, d_features, CHUNK, d_x, CHUNK, 0);
    transpose(f->width, count, f->width, d_x, CHUNK, row_of(&f->d_queries, batch, head, at), f->d_queries.row);
}

// The same of keys (K, C), in whose exponents half their squared norm is too.
static void keys_back(const favor *f, long batch, long head, long at, long count, const float *keys, const float *features,
                      float *d_features, float *d_x) {
    long columns = padded(count);
    float sums[CHUNK] = {0};
    for (long m = 0; m < f->features; m++)
        for (long c = 0; c < columns; c += LANES) {
            vec slope = load(d_features + m * CHUNK + c) * load(features + m * CHUNK + c);
            store(d_features + m * CHUNK + c, slope);
            store(sums + c, load(sums + c) + slope);
        }
    product_transposed(f->width, columns, f->features, f->projection, f->width, d_features, CHUNK, d_x, CHUNK, 0);
    for (long i = 0; i < f->width; i++)
        for (long c = 0; c < columns; c += LANES) {
            vec less = load(sums + c) * load(keys + i * CHUNK + c) / sqrtf(f->width);
            store(d_x + i * CHUNK + c, load(d_x + i * CHUNK + c) - less);
        }
    transpose(f->width, count, f->width, d_x, CHUNK, row_of(&f->d_keys, batch, head, at), f->d_keys.row);
}

#endif
