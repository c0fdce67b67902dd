// A chunk of queries and a key block, KEY_BLOCK consecutive keys with their values: from scores to weights to what they sum up, there and
// back. With a matrix unit the vector unit makes weights and slopes meanwhile, a few rows at a time as the next tiles are summed up, and they
// go straight into operands; else they are written and read again.
//
// C chunk of queries, J key block, K width of queries and keys, V width of values.
#ifndef SUBQUADRATIC_SOFTMAX_BLOCK_H
#define SUBQUADRATIC_SOFTMAX_BLOCK_H

#include "matrices.h"

#define KEY_BLOCK 128
#ifdef MATRIX_UNIT
#define TOGETHER 8 // chunks that a key block is packed for
#else
#define TOGETHER 1 // nothing is packed
#endif

typedef struct {
    rows queries, keys, values, output, d_output, d_queries, d_keys, d_values;
    float *normaliser; // (B, H, N) log2 of the sum of exponentials
    float *sums;       // what each share of the queries adds to the gradients of keys and values
    const int64_t *lengths; // (B,) of a window's queries and keys, behind which each is seen by itself alone; null: all are real
    int64_t batch, heads, length, count, width, value_width;
    int64_t causal, window, sliding, shares, threads; // causal: query i sees keys up to count - length + i; window: see `reach`
} attention;

typedef struct {
    long batch, head, at, queries, columns, first, end; // of the keys that any of the queries sees
    float *q, *base, *sum, *mixed;                      // (K, C); (C,) what is taken from scores; (C,); (V, C)
    operand queries_right;                              // (K, C)
    float low[CHUNK], high[CHUNK];                      // in a window: the first and last key that each query sees, counted from `at`
} chunk;

// A thread's key block.
typedef struct {
    long first, count;
    float *scores, *memory[6]; // (J, C); for operands
    operand keys, values;      // (J, K); (V, J) forward, (J, V) backward
    operand keys_transposed;       // (K, J)
} key_block;

// What backward has of a chunk, and what its share of the queries sums up.
typedef struct {
    float *g, *d_q, *inner;                          // (V, C); (K, C); (C,)
    operand queries_rows, slopes_rows, slopes_right; // (C, K), (C, V), (V, C)
} slopes;
typedef struct {
    float *d_keys, *d_values, *d_scores, *mixed; // (S, step) twice; (J, C); (V, C)
    long key_step, value_step, begun; // begun: how many keys have been given a sum, of zero to begin with
} sums;

static long space_for_key_block(const attention *a) {
    return KEY_BLOCK * CHUNK + unit_numbers(KEY_BLOCK, a->width) + unit_numbers(a->width, KEY_BLOCK) + unit_numbers(KEY_BLOCK, a->value_width) +
           unit_numbers(a->value_width, KEY_BLOCK) + 3 * unit_numbers(KEY_BLOCK, CHUNK);
}

static key_block key_block_in(const attention *a, space *s) {
    key_block b = {.scores = take(s, KEY_BLOCK * CHUNK)};
    b.memory[0] = take(s, unit_numbers(KEY_BLOCK, a->width)), b.memory[2] = take(s, unit_numbers(a->width, KEY_BLOCK));
    b.memory[1] = take(s, unit_numbers(KEY_BLOCK, a->value_width) + unit_numbers(a->value_width, KEY_BLOCK)); // one of both
    for (int i = 3; i < 6; i++) b.memory[i] = take(s, unit_numbers(KEY_BLOCK, CHUNK));
    return b;
}

// The last key of the key block that the chunk's first query sees; the next query sees one more.
INLINE long last_seen(const attention *a, const chunk *c, const key_block *b) {
    return a->causal ? a->count - a->length + c->at - b->first : b->count;
}

// The first and last key that a query sees. With a window of W (as many queries as keys then) either its own block of W and the one before, and
// where not causal the one after; or, sliding, the W keys that end with itself, and where not causal W - 1 after it.
INLINE void reach(const attention *a, long batch, long i, long *low, long *high) {
    *low = 0, *high = a->causal ? a->count - a->length + i : a->count - 1;
    if (!a->window) return;
    if (a->lengths && i >= a->lengths[batch]) {
        *low = *high = i;
        return;
    }
    if (a->lengths && *high >= a->lengths[batch]) *high = a->lengths[batch] - 1;
    long block = i / a->window, after = a->sliding ? i + a->window - 1 : (block + 2) * a->window - 1;
    *low = a->sliding ? i - a->window + 1 : (block - 1) * a->window;
    if (*low < 0) *low = 0;
    if (after < *high) *high = after;
}

// Scores of a key for queries from i on, minus infinity where it is outside of their windows; the key counted from the chunk's first query.
INLINE vec within(const chunk *c, long key, long i, vec scores) {
    vec at = all(key);
    return choose((load(c->low + i) > at) | (load(c->high + i) < at), all(-INFINITY), scores);
}

// Scores of a key j for queries from i on, minus infinity where it may not be seen.
INLINE vec visible(long seen, long j, long i, vec scores) {
    if (j - seen <= i) return scores;
    ivec lane;
    for (int at = 0; at < LANES; at++) lane[at] = at;
    return choose(lane < (int)(j - seen - i), all(-INFINITY), scores);
}

#ifdef MATRIX_UNIT

#define FAR 16.0f // weights up to 2^FAR are summed up before they are taken from a larger base

// A key block's scores for a chunk on their way to weights, or their gradients to slopes, and into operands.
typedef struct {
    const chunk *c;
    const float *inner; // null: these are scores
    long seen, first;   // where there is a window, the key block's first key, counted from the chunk's first query
    int window;
    float *weights, scale;         // (J, C), for slopes
    operand left, right;           // (J, C): to be multiplied from the right, and from the left
    float most[CHUNK], sum[CHUNK]; // forward: the largest score, and the sum of weights before this key block
} passage;

INLINE vec shown(const passage *p, long j, long i, vec scores) {
    return p->window ? within(p->c, p->first + j, i, scores) : visible(p->seen, j, i, scores);
}

INLINE void put_results(const four *x, long row) {
#pragma GCC unroll 4
    for (int tile = 0; tile < 4; tile++) put_row(x, row, tile);
}

static __attribute__((noinline)) void put_forward(const four *x, long row, int first) {
    passage *p = x->with;
    if (!p) {
        put_results(x, row);
        return;
    }
    vec weights[4];
#pragma GCC unroll 4
    for (int tile = 0; tile < 4; tile++) {
        long j = x->at + tile / 2 * SIDE + row, i = x->right + tile % 2 * SIDE;
        weights[tile] = (vec){0};
        if (!is_in(x, row, tile)) continue;
        vec score = shown(p, j, i, sum_at(x, tile, row));
        store(p->most + i, larger(score, load(p->most + i)));
        weights[tile] = exp2_of(score - load(p->c->base + i));
        store(p->c->sum + i, load(p->c->sum + i) + weights[tile]);
    }
    put_right(x, row, weights, p->right);
}

static __attribute__((noinline)) void put_backward(const four *x, long row, int first) {
    passage *p = x->with;
    if (!p) {
        put_results(x, row);
        return;
    }
    vec numbers[4];
#pragma GCC unroll 4
    for (int tile = 0; tile < 4; tile++) {
        long j = x->at + tile / 2 * SIDE + row, i = x->right + tile % 2 * SIDE;
        numbers[tile] = (vec){0};
        if (!is_in(x, row, tile)) continue;
        vec sum = sum_at(x, tile, row);
        float *weight = p->weights + j * CHUNK + i;
        if (p->inner) numbers[tile] = load(weight) * (sum - load(p->inner + i)) * p->scale;
        else {
            numbers[tile] = exp2_of(shown(p, j, i, sum) - load(p->c->base + i));
            store(weight, numbers[tile]);
        }
    }
    if (p->inner) put_both(x, row, numbers, p->left, p->right);
    for (int i = 0; !p->inner && i < 4; i += 2) put_left(x, row, i, numbers + i, p->left);
}

static __attribute__((noinline)) void multiply_forward(
    queue *q, long rows, long columns, long depth, operand a, operand b, float *c, void *with) {
    queue_product(q, rows, columns, depth, a, b, (place){.at = c, .step = CHUNK, .add = 1}, (put){put_forward, 4}, with, NULL);
}
static __attribute__((noinline)) void multiply_backward(
    queue *q, long rows, long columns, long depth, operand a, operand b, float *c, long c_step, void *with) {
    queue_product(q, rows, columns, depth, a, b, (place){.at = c, .step = c_step, .add = 1}, (put){put_backward, 4}, with, NULL);
}

INLINE long keys_seen(const key_block *b, const chunk *c) { return least(b->count, c->end - b->first); }

static void weigh(const attention *a, const key_block *b, queue *q, passage *p) {
    multiply_forward(q, keys_seen(b, p->c), p->c->columns, a->width, b->keys, p->c->queries_right, NULL, p);
}

// Where a query's scores are far above their base: a new base, and the key block's weights once more. Of the other queries nothing changes: they
// may not know of later ones. No base is larger than what a query has seen, and differences up to FAR are rounded no more than scores are.
static void weigh_again(const attention *a, const key_block *b, queue *q, passage *p) {
    const chunk *c = p->c;
    vec climb = {0};
    for (long i = 0; i < c->columns; i += LANES) climb = larger(load(p->most + i) - load(c->base + i), climb);
    if (largest_of(climb) <= FAR) return;
    queue_end(q, (put){put_forward, 4});
    float shrink[CHUNK];
    for (long i = 0; i < c->columns; i += LANES) {
        vec base = load(c->base + i), most = load(p->most + i), next = choose(most - base > FAR, most, base);
        store(shrink + i, exp2_of(base - next));
        store(c->sum + i, load(p->sum + i) * load(shrink + i));
        store(c->base + i, next);
    }
    scale_columns(a->value_width, c->columns, c->mixed, shrink);
    weigh(a, b, q, p);
    queue_end(q, (put){put_forward, 4});
}

static void mix(const attention *a, const key_block *b, queue *q, passage *p) {
    weigh_again(a, b, q, p);
    multiply_forward(q, a->value_width, p->c->columns, keys_seen(b, p->c), b->values, p->right, p->c->mixed, NULL);
}

// While a chunk's weights are made the scores of the next are multiplied.
static void forward_key_block(const attention *a, const key_block *b, queue *q, const chunk *chunks, long count) {
    passage passages[2], *before = NULL;
    for (long i = 0; i < count; i++) {
        const chunk *c = chunks + i;
        if (keys_seen(b, c) <= 0 || c->first >= b->first + b->count) continue;
        passage *p = passages + i % 2;
        p->c = c, p->seen = last_seen(a, c, b), p->first = b->first - c->at, p->window = a->window > 0, p->right = operand_in(b->memory[3 + i % 2], keys_seen(b, c));
        memcpy(p->most, c->base, sizeof p->most), memcpy(p->sum, c->sum, sizeof p->sum);
        weigh(a, b, q, p);
        if (before) mix(a, b, q, before);
        before = p;
    }
    queue_end(q, (put){put_forward, 4});
    if (before) mix(a, b, q, before);
}
static void forward_end(queue *q) { queue_end(q, (put){put_forward, 4}); }

static void backward_key_block(const attention *a, const key_block *b, queue *q, const chunk *c, const slopes *g, const sums *d) {
    passage scores, gradients;
    long keys = keys_seen(b, c);
    scores.c = gradients.c = c, scores.weights = gradients.weights = b->scores;
    scores.inner = NULL, scores.seen = last_seen(a, c, b), scores.first = b->first - c->at, scores.window = a->window > 0, scores.left = operand_in(b->memory[3], c->queries);
    gradients.inner = g->inner, gradients.scale = 1 / sqrtf(a->width);
    gradients.left = operand_in(b->memory[4], c->queries), gradients.right = operand_in(b->memory[5], keys);
    multiply_backward(q, keys, c->columns, a->width, b->keys, c->queries_right, NULL, 0, &scores);
    multiply_backward(q, keys, c->columns, a->value_width, b->values, g->slopes_right, NULL, 0, &gradients);
    float *d_values = d->d_values + b->first * d->value_step, *d_keys = d->d_keys + b->first * d->key_step;
    multiply_backward(q, keys, a->value_width, c->queries, scores.left, g->slopes_rows, d_values, d->value_step, NULL);
    multiply_backward(q, keys, a->width, c->queries, gradients.left, g->queries_rows, d_keys, d->key_step, NULL);
    multiply_backward(q, a->width, c->columns, keys, b->keys_transposed, gradients.right, g->d_q, CHUNK, NULL);
}
static void backward_end(queue *q) { queue_end(q, (put){put_backward, 4}); }

#else

typedef struct {
    int none;
} queue;

static void queue_begin(queue *q) {}
static void forward_end(queue *q) {}
static void backward_end(queue *q) {}

// Exponents to base 2 of the queries for the keys of a key block that the chunk sees, (J, C); minus infinity where one may not be seen.
static long exponents(const attention *a, const chunk *c, const key_block *b) {
    long keys = least(b->count, c->end - b->first), seen = last_seen(a, c, b), from = b->first - c->at;
    multiply(keys, c->columns, a->width, b->keys, c->queries_right, b->scores, CHUNK, 0);
    if (a->window) {
        for (long j = 0; j < keys; j++) {
            if (from + j >= c->low[CHUNK - 1] && from + j <= c->high[0]) continue; // all see it
            for (long i = 0; i < c->columns; i += LANES)
                store(b->scores + j * CHUNK + i, within(c, from + j, i, load(b->scores + j * CHUNK + i)));
        }
        return keys;
    }
    for (long j = seen < 0 ? 0 : seen + 1; j < keys; j++)
        for (long i = 0; i < c->columns; i += LANES) store(b->scores + j * CHUNK + i, visible(seen, j, i, load(b->scores + j * CHUNK + i)));
    return keys;
}

static void forward_key_block(const attention *a, const key_block *b, queue *q, const chunk *chunks, long count) {
    for (const chunk *c = chunks; c < chunks + count; c++) {
        if (c->end <= b->first) continue;
        float shrink[CHUNK];
        long keys = exponents(a, c, b);
        for (long i = 0; i < c->columns; i += LANES) {
            float *at = b->scores + i;
            vec base = load(c->base + i), most = base, sum = {0};
            for (long j = 0; j < keys; j++) most = larger(load(at + j * CHUNK), most);
            for (long j = 0; j < keys; j++) {
                vec weight = exp2_of(load(at + j * CHUNK) - most);
                store(at + j * CHUNK, weight);
                sum += weight;
            }
            store(shrink + i, exp2_of(base - most));
            store(c->sum + i, load(c->sum + i) * load(shrink + i) + sum);
            store(c->base + i, most);
        }
        scale_columns(a->value_width, c->columns, c->mixed, shrink);
        multiply(a->value_width, c->columns, keys, b->values, right_once(keys, c->columns, b->scores, CHUNK, b->memory[3]), c->mixed, CHUNK, 1);
    }
}

static void backward_key_block(const attention *a, const key_block *b, queue *q, const chunk *c, const slopes *g, const sums *d) {
    float scale = 1 / sqrtf(a->width);
    long keys = exponents(a, c, b);
    multiply(keys, c->columns, a->value_width, b->values, g->slopes_right, d->d_scores, CHUNK, 0);
    for (long j = 0; j < keys; j++)
        for (long i = j * CHUNK; i < j * CHUNK + c->columns; i += LANES) {
            vec weight = exp2_of(load(b->scores + i) - load(c->base + i - j * CHUNK));
            store(b->scores + i, weight);
            store(d->d_scores + i, weight * (load(d->d_scores + i) - load(g->inner + i - j * CHUNK)) * scale);
        }
    multiply(keys, a->value_width, c->queries, left_of(keys, c->queries, b->scores, CHUNK, b->memory[3]), g->slopes_rows,
             d->d_values + b->first * d->value_step, d->value_step, 1);
    multiply(keys, a->width, c->queries, left_of(keys, c->queries, d->d_scores, CHUNK, b->memory[3]), g->queries_rows,
             d->d_keys + b->first * d->key_step, d->key_step, 1);
    multiply(a->width, c->columns, keys, b->keys_transposed, right_once(keys, c->columns, d->d_scores, CHUNK, b->memory[3]), g->d_q, CHUNK, 1);
}

#endif

#endif
