// Exact softmax attention, forward and backward, a chunk of queries by blocks of keys; scores exist for one block at a time.
//
// As in FlashAttention (arXiv 2205.14135), with the queries of a chunk along the vector: maxima and sums are then vector operations, and
// keys and values are read where they lie. C chunk of queries, J block of keys.
#include "tensor.h"

#define BLOCK 128

typedef struct {
    rows queries, keys, values, output, d_output, d_queries, d_keys, d_values;
    float *normaliser; // (B, H, N) log2 of the sum of exponentials
    float *sums;       // what each share of the queries adds to the gradients of keys and values
    int64_t batch, heads, length, count, width, value_width;
    int64_t causal, shares, threads; // causal: query i sees keys up to count - length + i
} attention;

typedef struct {
    long batch, head, at, queries, columns, end; // end: of the keys that the chunk's last query sees
    float *q, *scores, *most, *sum, *mixed;
} chunk;

static long space_for(const attention *a) { return (a->width + a->value_width + BLOCK + 2) * CHUNK; }

static chunk chunk_of(const attention *a, long index, long at, space *s) {
    chunk c = {.batch = index / a->heads, .head = index % a->heads, .at = at};
    c.queries = a->length - at < CHUNK ? a->length - at : CHUNK, c.columns = PADDED(c.queries);
    c.end = a->causal ? a->count - a->length + at + c.queries : a->count;
    c.q = take(s, a->width * CHUNK), c.scores = take(s, BLOCK * CHUNK), c.most = take(s, CHUNK), c.sum = take(s, CHUNK);
    c.mixed = take(s, a->value_width * CHUNK);
    return c;
}

static void read_queries(const attention *a, chunk *c) {
    float scale[CHUNK];
    for (long i = 0; i < CHUNK; i++) scale[i] = LOG2E / sqrtf(a->width);
    transpose(c->queries, a->width, c->columns, row_of(&a->queries, c->batch, c->head, c->at), a->queries.row, c->q, CHUNK);
    scale_columns(a->width, c->columns, c->q, scale);
}

// Exponents to base 2 of the queries for keys from `first` on, (J, C); minus infinity where a key may not be seen.
static void exponents(const attention *a, chunk *c, long first, long keys) {
    product(keys, c->columns, a->width, row_of(&a->keys, c->batch, c->head, first), a->keys.row, c->q, CHUNK, c->scores, CHUNK, 0);
    long seen = a->count - a->length + c->at; // the last key that the chunk's first query sees
    ivec lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    for (long j = 0; a->causal && j < keys; j++)
        for (long i = 0; first + j - seen > i; i += LANES) {
            float *at = c->scores + j * CHUNK + i;
            store(at, choose(lane < (int)(first + j - seen - i), all(-INFINITY), load(at)));
        }
}

static void forward_chunk(const attention *a, chunk *c) {
    read_queries(a, c);
    for (long i = 0; i < CHUNK; i++) c->most[i] = -INFINITY, c->sum[i] = 0;
    for (long first = 0; first < c->end; first += BLOCK) {
        long keys = c->end - first < BLOCK ? c->end - first : BLOCK;
        float shrink[CHUNK];
        exponents(a, c, first, keys);
        for (long i = 0; i < c->columns; i += LANES) {
            float *at = c->scores + i;
            vec most = load(c->most + i), sum = {0};
            for (long j = 0; j < keys; j++) most = larger(load(at + j * CHUNK), most);
            for (long j = 0; j < keys; j++) {
                vec weight = exp2_of(load(at + j * CHUNK) - most);
                store(at + j * CHUNK, weight);
                sum += weight;
            }
            store(shrink + i, exp2_of(load(c->most + i) - most));
            store(c->sum + i, load(c->sum + i) * load(shrink + i) + sum);
            store(c->most + i, most);
        }
        if (first) scale_columns(a->value_width, c->columns, c->mixed, shrink);
        product_turned(a->value_width, c->columns, keys, row_of(&a->values, c->batch, c->head, first), a->values.row, c->scores, CHUNK,
                       c->mixed, CHUNK, first > 0);
    }
    float over[CHUNK] = {0}, *normaliser = a->normaliser + (c->batch * a->heads + c->head) * a->length + c->at;
    for (long i = 0; i < c->queries; i++) {
        over[i] = 1 / c->sum[i];
        normaliser[i] = c->most[i] + log2f(c->sum[i]);
    }
    scale_columns(a->value_width, c->columns, c->mixed, over);
    transpose(a->value_width, c->queries, a->value_width, c->mixed, CHUNK, row_of(&a->output, c->batch, c->head, c->at), a->output.row);
}

void softmax_attention_forward(const attention *a) {
    long chunks = (a->length + CHUNK - 1) / CHUNK, heads = a->batch * a->heads;
#pragma omp parallel for schedule(dynamic) num_threads(a->threads)
    for (long task = chunks * heads - 1; task >= 0; task--) { // the longest first
        space s = space_of(space_for(a));
        chunk c = chunk_of(a, task % heads, task / heads * CHUNK, &s);
        forward_chunk(a, &c);
        free(s.start);
    }
}

typedef struct {
    float *d_keys, *d_values;                         // (S, step): what the queries of a share add
    float *q_rows, *g_rows, *g, *d_scores, *d_q, *inner; // rows (C, step); (V, C); (J, C); (K, C); (C,)
    long key_step, value_step;
} slopes;

static long space_for_slopes(const attention *a) {
    return (PADDED(a->width) + PADDED(a->value_width) + a->value_width + BLOCK + a->width + 1) * CHUNK;
}

static slopes slopes_of(const attention *a, float *sums, space *s) {
    slopes d = {.key_step = PADDED(a->width), .value_step = PADDED(a->value_width)};
    d.d_keys = sums, d.d_values = sums + a->count * d.key_step;
    d.q_rows = take(s, CHUNK * d.key_step), d.g_rows = take(s, CHUNK * d.value_step), d.g = take(s, a->value_width * CHUNK);
    d.d_scores = take(s, BLOCK * CHUNK), d.d_q = take(s, a->width * CHUNK), d.inner = take(s, CHUNK);
    return d;
}

// (C, step) of a tensor's rows, with zeros behind each.
static void read_rows(const rows *from, const chunk *c, long width, float *to, long step) {
    for (long i = 0; i < c->queries; i++) {
        store(to + i * step + step - LANES, (vec){0});
        copy(to + i * step, row_of(from, c->batch, c->head, c->at + i), width);
    }
}

static void backward_chunk(const attention *a, chunk *c, slopes *d) {
    float scale = 1 / sqrtf(a->width), *normaliser = a->normaliser + (c->batch * a->heads + c->head) * a->length + c->at;
    read_queries(a, c);
    read_rows(&a->queries, c, a->width, d->q_rows, d->key_step);
    read_rows(&a->d_output, c, a->value_width, d->g_rows, d->value_step);
    transpose(c->queries, a->value_width, c->columns, d->g_rows, d->value_step, d->g, CHUNK);
    transpose(c->queries, a->value_width, c->columns, row_of(&a->output, c->batch, c->head, c->at), a->output.row, c->mixed, CHUNK);
    for (long i = 0; i < c->columns; i += LANES) {
        vec inner = {0};
        for (long x = 0; x < a->value_width; x++) inner += load(c->mixed + x * CHUNK + i) * load(d->g + x * CHUNK + i);
        store(d->inner + i, inner);
    }
    for (long i = 0; i < CHUNK; i++) c->sum[i] = i < c->queries ? normaliser[i] : 0;
    for (long first = 0; first < c->end; first += BLOCK) {
        long keys = c->end - first < BLOCK ? c->end - first : BLOCK;
        exponents(a, c, first, keys);
        product(keys, c->columns, a->value_width, row_of(&a->values, c->batch, c->head, first), a->values.row, d->g, CHUNK, d->d_scores,
                CHUNK, 0);
        for (long j = 0; j < keys; j++)
            for (long i = 0; i < c->columns; i += LANES) {
                vec weight = exp2_of(load(c->scores + j * CHUNK + i) - load(c->sum + i));
                store(c->scores + j * CHUNK + i, weight);
                store(d->d_scores + j * CHUNK + i, weight * (load(d->d_scores + j * CHUNK + i) - load(d->inner + i)) * scale);
            }
        product(keys, d->value_step, c->queries, c->scores, CHUNK, d->g_rows, d->value_step, d->d_values + first * d->value_step,
                d->value_step, 1);
        product(keys, d->key_step, c->queries, d->d_scores, CHUNK, d->q_rows, d->key_step, d->d_keys + first * d->key_step, d->key_step, 1);
        product_turned(a->width, c->columns, keys, row_of(&a->keys, c->batch, c->head, first), a->keys.row, d->d_scores, CHUNK, d->d_q,
                       CHUNK, first > 0);
    }
    transpose(a->width, c->queries, a->width, d->d_q, CHUNK, row_of(&a->d_queries, c->batch, c->head, c->at), a->d_queries.row);
}

// A head's chunks are dealt out to shares, each of which sums up gradients of all keys; these are added in order.
void softmax_attention_backward(const attention *a) {
    long heads = a->batch * a->heads, shares = a->shares;
    long each = a->count * (PADDED(a->width) + PADDED(a->value_width));
#pragma omp parallel for schedule(dynamic) num_threads(a->threads)
    for (long task = 0; task < heads * shares; task++) {
        float *own = a->sums + task * each;
        memset(own, 0, each * 4);
        for (long at = task % shares * CHUNK; at < a->length; at += shares * CHUNK) {
            space s = space_of(space_for(a) + space_for_slopes(a));
            chunk c = chunk_of(a, task / shares, at, &s);
            slopes d = slopes_of(a, own, &s);
            backward_chunk(a, &c, &d);
            free(s.start);
        }
    }
#pragma omp parallel for schedule(static) num_threads(a->threads)
    for (long index = 0; index < heads; index++) {
        float *first = a->sums + index * shares * each, *values = first + a->count * PADDED(a->width);
        for (long share = 1; share < shares; share++)
            for (long i = 0; i < each; i += LANES) store(first + i, load(first + i) + load(first + share * each + i));
        for (long j = 0; j < a->count; j++) {
            copy(row_of(&a->d_keys, index / a->heads, index % a->heads, j), first + j * PADDED(a->width), a->width);
            copy(row_of(&a->d_values, index / a->heads, index % a->heads, j), values + j * PADDED(a->value_width), a->value_width);
        }
    }
}
