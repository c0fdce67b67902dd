// Exact softmax attention, forward and backward, as in FlashAttention (arXiv 2205.14135): scores exist for a chunk of queries and a key block
// at a time.
//
//     S = q k^T / sqrt(K),   P = softmax(S),   o = P v
//     dv = P^T do,   dS = P * (do v^T - rowsum(do * o)),   dq = dS k / sqrt(K),   dk = dS^T q / sqrt(K)
//
// Exponents are to base 2. Forward keeps what is taken from a query's scores (its base), the sum of weights relative to it, and their mixture
// of values; a larger base rescales both. Kept for backward is log2 of the whole sum, from which P is made again.
//
// Loop order: forward, threads take chunks of queries of a head, and go through its key blocks, in a window through those that any of its
// queries sees. Backward, threads take shares of a head's chunks, and go for each through the key blocks, adding to gradients of all keys and
// values that are the share's own, or, where it is the only one, the results. With a matrix unit up
// to TOGETHER chunks go through the key blocks together, since these are packed for them.
// Caches: a chunk's (K, C) and (V, C) and the scores (J, C), 16, 16 and 32 KB at K = V = 64, are for the first two caches, whatever the length;
// keys and values stream in for each chunk, backward a share's gradients of them too, from the second cache or beyond.
//
// The queries of a chunk lie along the vector: maxima and sums are then vector operations, and without a matrix unit keys and values are read
// where they lie. B batch, H heads, N queries, S keys, C chunk of queries, J key block, K width of queries and keys, V width of values.
#include "block.h"

#define LOWEST -3e38f // a base below every score

// How many chunks a key block is packed for, so that there are enough of these for all threads.
static long together(long chunks, long threads) { return least(TOGETHER, 1 + (chunks - 1) / (4 * threads)); }

static long space_for_chunk(const attention *a) {
    return (a->width + a->value_width + 2) * CHUNK + unit_numbers(CHUNK, a->width);
}

static chunk chunk_of(const attention *a, long index, long at, space *s) {
    chunk c = {.batch = index / a->heads, .head = index % a->heads, .at = at};
    c.queries = least(CHUNK, a->length - at), c.columns = padded(c.queries);
    long low, high;
    reach(a, c.batch, at + c.queries - 1, &low, &high), c.end = high + 1;
    reach(a, c.batch, at, &c.first, &high);
    for (long i = 0; a->window && i < CHUNK; i++) { // those that fill up the chunk see what the last one sees
        reach(a, c.batch, at + least(i, c.queries - 1), &low, &high);
        c.low[i] = low - at, c.high[i] = high - at;
    }
    c.q = take(s, a->width * CHUNK), c.base = take(s, CHUNK), c.sum = take(s, CHUNK), c.mixed = take(s, a->value_width * CHUNK);
    float scale[CHUNK];
    for (long i = 0; i < CHUNK; i++) scale[i] = LOG2E / sqrtf(a->width);
    transpose(c.queries, a->width, c.columns, row_of(&a->queries, c.batch, c.head, at), a->queries.row, c.q, CHUNK);
    scale_columns(a->width, c.columns, c.q, scale);
    c.queries_right = right_once(a->width, c.columns, c.q, CHUNK, take(s, unit_numbers(CHUNK, a->width)));
    return c;
}

// What is taken from a chunk's scores at first: those of the first key, which every query sees.
static void first_scores(const attention *a, const chunk *c) {
    const float *key = row_of(&a->keys, c->batch, c->head, 0);
    for (long i = 0; i < CHUNK; i += LANES) {
        vec score = {0};
        for (long x = 0; i < c->columns && x < a->width; x++) score += key[x] * load(c->q + x * CHUNK + i);
        store(c->base + i, larger(all(LOWEST), score));
    }
}

static void begin_sums(const attention *a, const chunk *c) {
    if (a->window) // there is no key that all see: the first that each sees gives its base
        for (long i = 0; i < CHUNK; i++) c->base[i] = LOWEST;
    else first_scores(a, c);
    memset(c->sum, 0, CHUNK * 4);
    memset(c->mixed, 0, a->value_width * CHUNK * 4);
}

static void write_output(const attention *a, const chunk *c) {
    float over[CHUNK] = {0}, *normaliser = a->normaliser + (c->batch * a->heads + c->head) * a->length + c->at;
    for (long i = 0; i < c->queries; i++) {
        over[i] = 1 / c->sum[i];
        normaliser[i] = c->base[i] + log2f(c->sum[i]);
    }
    scale_columns(a->value_width, c->columns, c->mixed, over);
    transpose(a->value_width, c->queries, a->value_width, c->mixed, CHUNK, row_of(&a->output, c->batch, c->head, c->at), a->output.row);
}

static void forward_chunks(const attention *a, long head, long at, long stop, space *s) {
    chunk chunks[TOGETHER];
    key_block b = key_block_in(a, s);
    queue q;
    queue_begin(&q);
    long count = 0, end = 0;
    for (; at < stop; at += CHUNK, count++) {
        chunks[count] = chunk_of(a, head, at, s), end = chunks[count].end;
        begin_sums(a, chunks + count);
    }
    const chunk *c = chunks;
    for (b.first = c->first; b.first < end; b.first += KEY_BLOCK) {
        b.count = least(KEY_BLOCK, end - b.first);
        b.keys = left_of(b.count, a->width, row_of(&a->keys, c->batch, c->head, b.first), a->keys.row, b.memory[0]);
        b.values = left_transposed(a->value_width, b.count, row_of(&a->values, c->batch, c->head, b.first), a->values.row, b.memory[1]);
        forward_key_block(a, &b, &q, chunks, count);
    }
    forward_end(&q);
    for (long i = 0; i < count; i++) write_output(a, chunks + i);
}

int softmax_attention_forward(const attention *a) {
    int failed = 0;
    long chunks = (a->length + CHUNK - 1) / CHUNK, heads = a->batch * a->heads, some = together(chunks * heads, a->threads);
    long tasks = (chunks + some - 1) / some;
#pragma omp parallel num_threads(a->threads)
    {
        tiles_begin();
#pragma omp for schedule(dynamic)
        for (long task = tasks * heads - 1; task >= 0; task--) { // the longest first
            space s = space_of(space_for_key_block(a) + some * space_for_chunk(a), &failed);
            if (!s.start) continue;
            long at = task / heads * some * CHUNK;
            forward_chunks(a, task % heads, at, least(a->length, at + some * CHUNK), &s);
            free(s.start);
        }
        tiles_end();
    }
    return failed;
}

static long space_for_slopes(const attention *a) {
    long key_step = padded(a->width), value_step = padded(a->value_width);
    return (a->value_width + a->width + 1) * CHUNK + right_numbers(key_step, CHUNK) + right_numbers(value_step, CHUNK) +
           unit_numbers(CHUNK, a->value_width);
}

static long space_for_sums(const attention *a) {
    return KEY_BLOCK * CHUNK + a->value_width * CHUNK;
}

// A tensor's rows of a chunk (C, X) as a right operand.
static operand rows_right(const rows *from, const chunk *c, long width, space *s) {
    return right_of(c->queries, width, row_of(from, c->batch, c->head, c->at), from->row, take(s, right_numbers(width, CHUNK)));
}

static slopes slopes_of(const attention *a, chunk *c, const sums *d, space *s) {
    slopes g = {.g = take(s, a->value_width * CHUNK), .d_q = take(s, a->width * CHUNK), .inner = take(s, CHUNK)};
    float *normaliser = a->normaliser + (c->batch * a->heads + c->head) * a->length + c->at;
    g.queries_rows = rows_right(&a->queries, c, a->width, s), g.slopes_rows = rows_right(&a->d_output, c, a->value_width, s);
    transpose(c->queries, a->value_width, c->columns, row_of(&a->d_output, c->batch, c->head, c->at), a->d_output.row, g.g, CHUNK);
    transpose(c->queries, a->value_width, c->columns, row_of(&a->output, c->batch, c->head, c->at), a->output.row, d->mixed, CHUNK);
    for (long i = 0; i < c->columns; i += LANES) {
        vec inner = {0};
        for (long x = 0; x < a->value_width; x++) inner += load(d->mixed + x * CHUNK + i) * load(g.g + x * CHUNK + i);
        store(g.inner + i, inner);
    }
    g.slopes_right = right_once(a->value_width, c->columns, g.g, CHUNK, take(s, unit_numbers(CHUNK, a->value_width)));
    for (long i = 0; i < CHUNK; i++) c->base[i] = i < c->queries ? normaliser[i] : 0;
    memset(g.d_q, 0, a->width * CHUNK * 4);
    return g;
}

// Sums of the keys up to `end`, where they have not begun: only then, so that they are still in a cache when they are added to.
static void begin_key_sums(const attention *a, sums *d, long end) {
    for (; d->begun < end; d->begun++) {
        memset(d->d_keys + d->begun * d->key_step, 0, padded(a->width) * 4);
        memset(d->d_values + d->begun * d->value_step, 0, padded(a->value_width) * 4);
    }
}

// Some of a share's chunks: `count` of them, a step apart.
static void backward_chunks(const attention *a, long head, long at, long step, long count, sums *d, space *s) {
    chunk chunks[TOGETHER];
    slopes given[TOGETHER];
    key_block b = key_block_in(a, s);
    queue q;
    queue_begin(&q);
    d->d_scores = take(s, KEY_BLOCK * CHUNK), d->mixed = take(s, a->value_width * CHUNK);
    long end = 0;
    for (long i = 0; i < count; i++) {
        chunks[i] = chunk_of(a, head, at + i * step, s), end = chunks[i].end;
        given[i] = slopes_of(a, chunks + i, d, s);
    }
    begin_key_sums(a, d, end);
    const chunk *c = chunks;
    for (b.first = c->first; b.first < end; b.first += KEY_BLOCK) {
        b.count = least(KEY_BLOCK, end - b.first);
        const float *keys = row_of(&a->keys, c->batch, c->head, b.first);
        b.keys = left_of(b.count, a->width, keys, a->keys.row, b.memory[0]);
        b.values = left_of(b.count, a->value_width, row_of(&a->values, c->batch, c->head, b.first), a->values.row, b.memory[1]);
        b.keys_transposed = left_transposed(a->width, b.count, keys, a->keys.row, b.memory[2]);
        for (long i = 0; i < count; i++)
            if (chunks[i].end > b.first && chunks[i].first < b.first + b.count) backward_key_block(a, &b, &q, chunks + i, given + i, d);
    }
    backward_end(&q);
    for (long i = 0; i < count; i++)
        transpose(a->width, chunks[i].queries, a->width, given[i].d_q, CHUNK, row_of(&a->d_queries, c->batch, c->head, chunks[i].at),
                  a->d_queries.row);
}

// Where a share sums up gradients: in its own memory, or at once in the results, where it is the only one and vectors have no rest.
static sums sums_of(const attention *a, long task, long each, int at_once) {
    long head = task / a->shares;
    if (at_once)
        return (sums){.d_keys = row_of(&a->d_keys, head / a->heads, head % a->heads, 0), .key_step = a->d_keys.row,
                      .d_values = row_of(&a->d_values, head / a->heads, head % a->heads, 0), .value_step = a->d_values.row};
    float *own = a->sums + task * each;
    return (sums){.d_keys = own, .key_step = padded(a->width), .d_values = own + a->count * padded(a->width),
                  .value_step = padded(a->value_width)};
}

// A head's chunks are dealt out to shares, each of which sums up gradients of all keys; these are added in order.
int softmax_attention_backward(const attention *a) {
    int failed = 0;
    long heads = a->batch * a->heads, shares = a->shares, some = TOGETHER, step = shares * CHUNK;
    long each = a->count * (padded(a->width) + padded(a->value_width));
    int at_once = shares == 1 && padded(a->width) == a->width && padded(a->value_width) == a->value_width;
#pragma omp parallel num_threads(a->threads)
    {
        tiles_begin();
#pragma omp for schedule(dynamic)
        for (long task = 0; task < heads * shares; task++) {
            sums d = sums_of(a, task, each, at_once);
            for (long at = task % shares * CHUNK; at < a->length; at += some * step) {
                space s = space_of(space_for_key_block(a) + space_for_sums(a) + some * (space_for_chunk(a) + space_for_slopes(a)), &failed);
                if (!s.start) continue;
                backward_chunks(a, task / shares, at, step, least(some, (a->length - at + step - 1) / step), &d, &s);
                free(s.start);
            }
            begin_key_sums(a, &d, a->count);
        }
        tiles_end();
    }
    if (at_once) return failed;
#pragma omp parallel for schedule(static) num_threads(a->threads)
    for (long index = 0; index < heads; index++) {
        float *first = a->sums + index * shares * each, *values = first + a->count * padded(a->width);
        for (long share = 1; share < shares; share++)
            for (long i = 0; i < each; i += LANES) store(first + i, load(first + i) + load(first + share * each + i));
        for (long j = 0; j < a->count; j++) {
            copy(row_of(&a->d_keys, index / a->heads, index % a->heads, j), first + j * padded(a->width), a->width);
            copy(row_of(&a->d_values, index / a->heads, index % a->heads, j), values + j * padded(a->value_width), a->value_width);
        }
    }
    return failed;
}

const field_layout softmax_layout[] = {
    STRUCT(attention), FIELD(attention, queries), FIELD(attention, keys), FIELD(attention, values), FIELD(attention, output),
    FIELD(attention, d_output), FIELD(attention, d_queries), FIELD(attention, d_keys), FIELD(attention, d_values),
    FIELD(attention, normaliser), FIELD(attention, sums), FIELD(attention, lengths), FIELD(attention, batch),
    FIELD(attention, heads), FIELD(attention, length), FIELD(attention, count), FIELD(attention, width), FIELD(attention, value_width),
    FIELD(attention, causal), FIELD(attention, window), FIELD(attention, sliding), FIELD(attention, shares), FIELD(attention, threads), END,
};
