// Linformer's attention (arXiv 2006.04768, eq. 7) in its causal form (attention/low_rank/op.py), forward and backward: slots of keys and values
// grow with the sequence, and each query attends to them as they are after its own position. Of a chunk, with the slots A (R, K) and
// B (R, V) before it:
//
//     p = softmax((q A^T + tril(q k^T) E) / sqrt(K)) over the slots,   o = p B + tril(p F^T) v,   then A += E^T k,   B += F^T v
//
// Backward goes from the last chunk to the first with the gradients of A and B after each; scores and p are made again, and so are the slots
// before a chunk, from those that were kept before its stretch.
//
// Loop order: forward, threads take heads, and go through each chunk by chunk. Backward, for all heads that have E and F in common: stretch
// by stretch, in which threads take heads and go through each chunk by chunk, and then add up what their heads give to E and F.
// Caches: a thread's (R, C), (C, C), (K, C) and (V, C), and its head's slots, which stay from chunk to chunk, are for the second cache:
// 0.3 MB forward at R = 256 and K = V = 64. E and F of a chunk (64 KB each there) are read again for each head, from the last cache;
// queries, keys and values come from memory once, backward keys and values at most twice.
//
// B batch, H heads, N length, C chunk, R slots, K width of queries and keys, V width of values. A chunk's positions lie along the vector.
#include <omp.h>

#include "matrices.h"

#define STRETCH 8 // chunks; the slots before the first of them are kept for backward

typedef struct {
    rows queries, keys, values, output, d_output, d_queries, d_keys, d_values; // (B, H, N, X)
    const float *key_weights, *value_weights;                                  // E and F (B or 1, N, R)
    float *d_key_weights, *d_value_weights;
    float *key_slots, *value_slots; // (B, H, R, K) and (B, H, R, V): before, then after; of gradients: after, then before
    float *state;                   // (B, H, R, padded_to_16(K) + padded_to_16(V)), storage
    float *kept;                    // (stretches, B, H, R, padded_to_16(K) + padded_to_16(V)), slots before each stretch; null: they are not kept
    float *sums;                    // (threads, 2, STRETCH C, padded_to_16(R)), what the heads of a thread give to E and F in a stretch
    int64_t batch, heads, length, slots, width, value_width, each, threads; // each: 1 if every row of the batch has its own E and F
} attention;

// A matrix that is an operand once: where it lies, the step of its rows, and whether it is the transpose of that. `loose`: memory of
// others, where nothing behind a row's end may be read.
typedef struct {
    const float *at;
    long step;
    int transposed, loose;
} matrix;

INLINE matrix own(const float *at, long step) { return (matrix){at, step, 0, 0}; }
INLINE matrix transposed(matrix x) { return (matrix){x.at, x.step, 1, x.loose}; }

static operand as_left(space *m, long rows, long depth, matrix a) {
    float *memory = take(m, unit_numbers(rows, depth));
    return a.transposed ? left_transposed(rows, depth, a.at, a.step, memory) : left_of(rows, depth, a.at, a.step, memory);
}

static operand as_right(space *m, long depth, long columns, matrix b) {
    float *memory = take(m, b.transposed || b.loose ? right_numbers(columns, depth) : unit_numbers(columns, depth));
    return b.transposed  ? right_transposed(depth, columns, b.at, b.step, memory)
           : b.loose ? right_of(depth, columns, b.at, b.step, memory)
                     : right_once(depth, columns, b.at, b.step, memory);
}

// c (rows, columns) = [c +] a b. The memory is free again afterwards: the space is a copy.
static void times(space m, long rows, long columns, long depth, matrix a, matrix b, float *c, long c_step, int add) {
    operand left = as_left(&m, rows, depth, a);
    multiply(rows, columns, depth, left, as_right(&m, depth, columns, b), c, c_step, add);
}

// One head's chunk, and memory for it.
typedef struct {
    long batch, head, at, count, columns;                     // columns: positions, filled up to whole vectors
    matrix e, f, keys, values;                                // (C, R), (C, R), (C, K), (C, V)
    float *q, *near, *weights, *mixed, *out;                  // (K, C); (C, C) of keys by queries; (R, C); (C, C); (K or V, C)
    float *d_weights, *d_near, *d_mixed, *g, *d_rows;         // (R, C); (C, C); (C, C); (V, C); (C, K or V)
    float *between;                                           // (STRETCH, R, step): slots before the chunks of a stretch
    operand queries, weights_right, e_transposed, f_left;         // (K, C); (R, C); (R, C); (C, R)
    space m;                                                  // for operands
} chunk;

INLINE long longer(long a, long b) { return a > b ? a : b; }
INLINE long state_step(const attention *s) { return padded_to_16(s->width) + padded_to_16(s->value_width); }
INLINE long state_numbers(const attention *s) { return s->slots * state_step(s); }

// Room for eight operands of the largest size.
static long numbers_for_operands(const attention *s) {
    long most = longer(longer(s->width, s->value_width), CHUNK);
    return 8 * (right_numbers(s->slots, most) + right_numbers(most, s->slots) + right_numbers(most, most));
}

static chunk chunk_in(const attention *s, int backward, space *m, int *failed) {
    long width = longer(s->width, s->value_width), once = (s->width + s->slots + 2 * CHUNK + width) * CHUNK;
    long more = (s->slots + 2 * CHUNK + s->value_width + padded_to_16(width)) * CHUNK + STRETCH * state_numbers(s);
    *m = space_of(once + backward * more + numbers_for_operands(s), failed);
    if (!m->start) return (chunk){0};
    chunk c = {.q = take(m, s->width * CHUNK), .weights = take(m, s->slots * CHUNK), .out = take(m, width * CHUNK)};
    c.near = take(m, CHUNK * CHUNK), c.mixed = take(m, CHUNK * CHUNK);
    if (backward) {
        c.d_weights = take(m, s->slots * CHUNK), c.d_near = take(m, CHUNK * CHUNK), c.d_mixed = take(m, CHUNK * CHUNK);
        c.g = take(m, s->value_width * CHUNK), c.d_rows = take(m, padded_to_16(width) * CHUNK), c.between = take(m, STRETCH * state_numbers(s));
    }
    return c;
}

// The chunk at `at` of a head.
static void go_to(const attention *s, chunk *c, long index, long at) {
    c->batch = index / s->heads, c->head = index % s->heads, c->at = at;
    c->count = least(CHUNK, s->length - at), c->columns = padded(c->count);
    long first = (s->each * c->batch * s->length + at) * s->slots;
    c->e = (matrix){s->key_weights + first, s->slots, 0, 1}, c->f = (matrix){s->value_weights + first, s->slots, 0, 1};
    c->keys = (matrix){row_of(&s->keys, c->batch, c->head, at), s->keys.row, 0, 1};
    c->values = (matrix){row_of(&s->values, c->batch, c->head, at), s->values.row, 0, 1};
}

// Zeros where a position would meet a later one, (C, C) of earlier ones by later ones.
static void cut(const chunk *c, float *pairs) {
    ivec lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    for (long j = 0; j < c->count; j++)
        for (long i = 0; i < j; i += LANES) {
            float *at = pairs + j * CHUNK + i;
            store(at, choose(lane + (int)i >= (int)j, load(at), (vec){0}));
        }
}

// Softmax over the slots of (R, C) times a scale to base 2.
static void softmax_of_slots(const attention *s, const chunk *c) {
    float scale = LOG2E / sqrtf(s->width);
    for (long i = 0; i < c->columns; i += LANES) {
        float *at = c->weights + i;
        vec most = load(at), sum = {0};
        for (long r = 1; r < s->slots; r++) most = larger(load(at + r * CHUNK), most);
        for (long r = 0; r < s->slots; r++) {
            vec weight = exp2_of((load(at + r * CHUNK) - most) * scale);
            store(at + r * CHUNK, weight);
            sum += weight;
        }
        sum = 1.0f / sum;
        for (long r = 0; r < s->slots; r++) store(at + r * CHUNK, load(at + r * CHUNK) * sum);
    }
}

// Attention of the chunk's queries to the slots before it and to what their own and earlier positions of the chunk add to them.
static void weigh(const attention *s, chunk *c, const float *slots) {
    long step = state_step(s), count = c->count, columns = c->columns;
    transpose(count, s->width, columns, row_of(&s->queries, c->batch, c->head, c->at), s->queries.row, c->q, CHUNK);
    c->queries = as_right(&c->m, s->width, columns, own(c->q, CHUNK));
    c->e_transposed = as_left(&c->m, s->slots, count, transposed(c->e));
    c->f_left = as_left(&c->m, count, s->slots, c->f);
    space m = c->m;
    multiply(count, columns, s->width, as_left(&m, count, s->width, c->keys), c->queries, c->near, CHUNK, 0);
    cut(c, c->near);
    multiply(s->slots, columns, s->width, as_left(&m, s->slots, s->width, own(slots, step)), c->queries, c->weights, CHUNK, 0);
    multiply(s->slots, columns, count, c->e_transposed, as_right(&m, count, columns, own(c->near, CHUNK)), c->weights, CHUNK, 1);
    softmax_of_slots(s, c);
    c->weights_right = as_right(&c->m, s->slots, columns, own(c->weights, CHUNK));
    multiply(count, columns, s->slots, c->f_left, c->weights_right, c->mixed, CHUNK, 0);
    cut(c, c->mixed);
}

// The slots after a chunk from those before it, which may be the same memory.
static void grow(const attention *s, const chunk *c, space m, operand e_transposed, const float *before, float *slots) {
    long step = state_step(s), values = padded_to_16(s->width);
    if (before != slots) copy(slots, before, state_numbers(s));
    operand keys = as_right(&m, c->count, s->width, c->keys);
    multiply(s->slots, s->width, c->count, e_transposed, keys, slots, step, 1);
    times(m, s->slots, s->value_width, c->count, transposed(c->f), c->values, slots + values, step, 1);
}

static void forward_chunk(const attention *s, chunk *c, float *slots) {
    space free_again = c->m;
    weigh(s, c, slots);
    space m = c->m;
    operand value_slots = as_left(&m, s->value_width, s->slots, transposed(own(slots + padded_to_16(s->width), state_step(s))));
    multiply(s->value_width, c->columns, s->slots, value_slots, c->weights_right, c->out, CHUNK, 0);
    times(m, s->value_width, c->columns, c->count, transposed(c->values), own(c->mixed, CHUNK), c->out, CHUNK, 1);
    transpose(s->value_width, c->count, s->value_width, c->out, CHUNK, row_of(&s->output, c->batch, c->head, c->at), s->output.row);
    grow(s, c, c->m, c->e_transposed, slots, slots);
    c->m = free_again;
}

// A head's slots between (R, K) and (R, V) and one (R, step).
static void join(const attention *s, long index, float *slots) {
    for (long r = 0; r < s->slots; r++) {
        float *to = slots + r * state_step(s);
        memset(to, 0, state_step(s) * 4);
        copy(to, s->key_slots + (index * s->slots + r) * s->width, s->width);
        copy(to + padded_to_16(s->width), s->value_slots + (index * s->slots + r) * s->value_width, s->value_width);
    }
}
static void split(const attention *s, long index, const float *slots) {
    for (long r = 0; r < s->slots; r++) {
        const float *from = slots + r * state_step(s);
        copy(s->key_slots + (index * s->slots + r) * s->width, from, s->width);
        copy(s->value_slots + (index * s->slots + r) * s->value_width, from + padded_to_16(s->width), s->value_width);
    }
}

int slots_forward(const attention *s) {
    int failed = 0;
    long heads = s->batch * s->heads;
#pragma omp parallel num_threads(s->threads)
    {
        space m;
        chunk c = chunk_in(s, 0, &m, &failed);
        c.m = m;
        tiles_begin();
#pragma omp for schedule(dynamic)
        for (long index = 0; index < heads; index++) {
            if (!m.start) continue;
            float *slots = s->state + index * state_numbers(s);
            join(s, index, slots);
            for (long at = 0; at < s->length; at += CHUNK) {
                if (s->kept && at % (STRETCH * CHUNK) == 0)
                    copy(s->kept + (at / (STRETCH * CHUNK) * heads + index) * state_numbers(s), slots, state_numbers(s));
                go_to(s, &c, index, at);
                forward_chunk(s, &c, slots);
            }
            split(s, index, slots);
        }
        tiles_end();
        free(m.start);
    }
    return failed;
}

// ds = p (dp - p . dp) / sqrt(K), in the place of dp, (R, C).
static void through_softmax(const attention *s, const chunk *c) {
    float scale = 1 / sqrtf(s->width);
    for (long i = 0; i < c->columns; i += LANES) {
        vec inner = {0};
        for (long r = 0; r < s->slots; r++) inner += load(c->weights + r * CHUNK + i) * load(c->d_weights + r * CHUNK + i);
        for (long r = 0; r < s->slots; r++) {
            float *at = c->d_weights + r * CHUNK + i;
            store(at, load(c->weights + r * CHUNK + i) * (load(at) - inner) * scale);
        }
    }
}

// Gradients of a chunk from the slots before it and the gradient of those after it, which becomes that of those before; d_e, d_f (C, wide).
static void backward_chunk(const attention *s, chunk *c, const float *slots, float *d_slots, float *d_e, float *d_f, long wide) {
    long step = state_step(s), count = c->count, columns = c->columns, number = s->slots;
    space free_again = c->m;
    weigh(s, c, slots);
    matrix keys_before = own(slots, step), values_before = own(slots + padded_to_16(s->width), step);
    matrix d_keys_after = own(d_slots, step), d_values_after = own(d_slots + padded_to_16(s->width), step);
    matrix d_output = {row_of(&s->d_output, c->batch, c->head, c->at), s->d_output.row, 0, 1};
    matrix queries = {row_of(&s->queries, c->batch, c->head, c->at), s->queries.row, 0, 1};
    matrix weights = own(c->weights, CHUNK), d_scores = own(c->d_weights, CHUNK);
    transpose(count, s->value_width, columns, d_output.at, d_output.step, c->g, CHUNK);
    operand d_output_right = as_right(&c->m, count, s->value_width, d_output);

    // Values, and F.
    space m = c->m;
    operand g = as_right(&m, s->value_width, columns, own(c->g, CHUNK)), values = as_left(&m, count, s->value_width, c->values);
    multiply(count, columns, s->value_width, values, g, c->d_mixed, CHUNK, 0);
    cut(c, c->d_mixed);
    multiply(number, columns, s->value_width, as_left(&m, number, s->value_width, values_before), g, c->d_weights, CHUNK, 0);
    times(m, number, columns, count, transposed(c->f), own(c->d_mixed, CHUNK), c->d_weights, CHUNK, 1);
    times(m, count, number, count, own(c->d_mixed, CHUNK), transposed(weights), d_f, wide, 1);
    multiply(count, number, s->value_width, values, as_right(&m, s->value_width, number, transposed(d_values_after)), d_f, wide, 1);
    m = c->m;
    long d_step = padded_to_16(s->value_width);
    multiply(count, s->value_width, count, as_left(&m, count, count, own(c->mixed, CHUNK)), d_output_right, c->d_rows, d_step, 0);
    multiply(count, s->value_width, number, c->f_left, as_right(&m, number, s->value_width, d_values_after), c->d_rows, d_step, 1);
    for (long i = 0; i < count; i++) copy(row_of(&s->d_values, c->batch, c->head, c->at + i), c->d_rows + i * d_step, s->value_width);
    m = c->m;
    multiply(number, s->value_width, count, as_left(&m, number, count, weights), d_output_right, d_slots + padded_to_16(s->width), step, 1);

    // Keys, queries, and E.
    through_softmax(s, c);
    m = c->m;
    operand d_scores_right = as_right(&m, number, columns, d_scores), e_left = as_left(&m, count, number, c->e);
    operand keys = as_left(&m, s->width, count, transposed(c->keys));
    multiply(count, columns, number, e_left, d_scores_right, c->d_near, CHUNK, 0);
    cut(c, c->d_near);
    multiply(s->width, columns, number, as_left(&m, s->width, number, transposed(keys_before)), d_scores_right, c->out, CHUNK, 0);
    multiply(s->width, columns, count, keys, as_right(&m, count, columns, own(c->d_near, CHUNK)), c->out, CHUNK, 1);
    transpose(s->width, count, s->width, c->out, CHUNK, row_of(&s->d_queries, c->batch, c->head, c->at), s->d_queries.row);
    operand queries_right = as_right(&m, count, s->width, queries);
    d_step = padded_to_16(s->width);
    multiply(count, s->width, count, as_left(&m, count, count, own(c->d_near, CHUNK)), queries_right, c->d_rows, d_step, 0);
    multiply(count, s->width, number, e_left, as_right(&m, number, s->width, d_keys_after), c->d_rows, d_step, 1);
    for (long i = 0; i < count; i++) copy(row_of(&s->d_keys, c->batch, c->head, c->at + i), c->d_rows + i * d_step, s->width);
    m = c->m;
    times(m, count, number, count, own(c->near, CHUNK), transposed(d_scores), d_e, wide, 1);
    times(m, count, number, s->width, c->keys, transposed(d_keys_after), d_e, wide, 1);
    times(m, number, s->width, count, d_scores, queries, d_slots, step, 1);
    c->m = free_again;
}

// A head's stretch, from its last chunk to its first.
static void backward_stretch(const attention *s, chunk *c, long index, long start, const float *kept, float *d_slots, float *d_e, float *d_f) {
    long stop = least(s->length, start + STRETCH * CHUNK), last = (stop - start - 1) / CHUNK;
    long numbers = state_numbers(s), wide = padded_to_16(s->slots);
    copy(c->between, kept, numbers);
    for (long i = 0; i < last; i++) {
        go_to(s, c, index, start + i * CHUNK);
        space m = c->m;
        operand e_transposed = as_left(&m, s->slots, c->count, transposed(c->e));
        grow(s, c, m, e_transposed, c->between + i * numbers, c->between + (i + 1) * numbers);
    }
    for (long i = last; i >= 0; i--) {
        go_to(s, c, index, start + i * CHUNK);
        backward_chunk(s, c, c->between + i * numbers, d_slots, d_e + i * CHUNK * wide, d_f + i * CHUNK * wide, wide);
    }
}

// Threads go through a stretch together, each with its heads, and then add up what these give to E and F.
int slots_backward(const attention *s) {
    int failed = 0;
    long heads = s->batch * s->heads, together = s->each ? s->heads : heads, wide = padded_to_16(s->slots), numbers = state_numbers(s);
    long stretch = STRETCH * CHUNK, half = stretch * wide, stretches = (s->length + stretch - 1) / stretch;
#pragma omp parallel num_threads(s->threads)
    {
        space m;
        chunk c = chunk_in(s, 1, &m, &failed);
        c.m = m;
        float *own = s->sums + omp_get_thread_num() * 2 * half;
        tiles_begin();
#pragma omp for schedule(static)
        for (long index = 0; index < heads; index++) join(s, index, s->state + index * numbers);
        for (long first = 0; first < heads; first += together)
            for (long at = (stretches - 1) * stretch; at >= 0; at -= stretch) {
                long count = least(stretch, s->length - at), to = (s->each * (first / s->heads) * s->length + at) * s->slots;
                memset(own, 0, 2 * half * 4);
#pragma omp for schedule(static)
                for (long index = first; index < first + together; index++)
                    if (m.start)
                        backward_stretch(s, &c, index, at, s->kept + (at / stretch * heads + index) * numbers, s->state + index * numbers,
                                         own, own + half);
                add_shares(omp_get_num_threads(), count, s->slots, s->sums, wide, 2 * half, s->d_key_weights + to);
                add_shares(omp_get_num_threads(), count, s->slots, s->sums + half, wide, 2 * half, s->d_value_weights + to);
            }
#pragma omp for schedule(static)
        for (long index = 0; index < heads; index++) split(s, index, s->state + index * numbers);
        tiles_end();
        free(m.start);
    }
    return failed;
}

const field_layout slots_layout[] = {
    STRUCT(attention), FIELD(attention, queries), FIELD(attention, keys), FIELD(attention, values), FIELD(attention, output),
    FIELD(attention, d_output), FIELD(attention, d_queries), FIELD(attention, d_keys), FIELD(attention, d_values),
    FIELD(attention, key_weights), FIELD(attention, value_weights), FIELD(attention, d_key_weights), FIELD(attention, d_value_weights),
    FIELD(attention, key_slots), FIELD(attention, value_slots), FIELD(attention, state), FIELD(attention, kept), FIELD(attention, sums),
    FIELD(attention, batch), FIELD(attention, heads), FIELD(attention, length), FIELD(attention, slots), FIELD(attention, width),
    FIELD(attention, value_width), FIELD(attention, each), FIELD(attention, threads), END,
};
