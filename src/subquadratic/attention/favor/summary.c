// Bidirectional FAVOR+ (arXiv 2009.14794, eq. 4): keys and values folded into a summary, and queries that read it, forward and backward. With a
// projection w (M, K) in which K^(-1/4) is, and m (M,) each feature's largest exponent of a key
//
//     S = sum_j exp(w k_j - |k_j|^2 / (2 sqrt(K)) - m) [v_j, 1]^T,   q'_i = exp(w q_i + m - max of these),   [n_i, z_i] = q'_i S,   o_i = n_i / z_i
//
// where S is (M, V + 1), and is rescaled, feature by feature, when a chunk brings a larger exponent. Backward makes features again.
//
// Loop order: threads take shares of the heads, and go through each chunk by chunk; where a head has several shares their summaries, or the
// gradients of it, are then put together.
// Caches: S or its gradient stays from chunk to chunk; with it, what a thread has of a chunk is for the second cache: 0.2 MB forward at
// K = V = 64 and M = 266, most of it S (M, V + 1) and features (M, C). Queries, keys, values and outputs are read or written once.
#include "favor.h"

typedef struct {
    long index, batch, head, start, stop, step; // index: of the head among all; step: of a summary's rows
    float *summary, *largest;                   // (M, step); (M,) each feature's largest exponent, to base 2
    float *x, *v, *features, *top, *d_features, *g, *g_rows, *output, *d_x;
} share;

static long space_for(const favor *f) {
    long step = padded(f->value_width + 1);
    return f->features * (2 * CHUNK) + 2 * f->width * CHUNK + CHUNK * step + CHUNK + 3 * step * CHUNK;
}

static share share_of(const favor *f, long task, long shares, space *s) {
    long index = task / shares, chunks = (f->length + CHUNK - 1) / CHUNK, number = task % shares;
    share h = {.index = index, .batch = index / f->heads, .head = index % f->heads, .step = padded(f->value_width + 1)};
    h.start = chunks * number / shares * CHUNK, h.stop = chunks * (number + 1) / shares * CHUNK;
    if (h.stop > f->length) h.stop = f->length;
    h.x = take(s, f->width * CHUNK), h.d_x = take(s, f->width * CHUNK), h.v = take(s, CHUNK * h.step);
    h.features = take(s, f->features * CHUNK), h.d_features = take(s, f->features * CHUNK), h.top = take(s, CHUNK);
    h.g = take(s, h.step * CHUNK), h.g_rows = take(s, CHUNK * h.step), h.output = take(s, h.step * CHUNK);
    return h;
}

static long summary_numbers(const favor *f) { return f->features * (padded(f->value_width + 1) + 1) + 32; }

INLINE void fetch_next(const share *h, const rows *x, long at, long width) {
    fetch(x, h->batch, h->head, at + CHUNK, h->stop < at + 2 * CHUNK ? h->stop : at + 2 * CHUNK, width);
}

// The exponents of a chunk's keys to base 2, (M, C); of what is no token so little that 2^x is 0. Values beside them.
static void key_exponents(const favor *f, share *h, long at, long count) {
    long columns = padded(count);
    fetch_next(h, &f->keys, at, f->width);
    fetch_next(h, &f->values, at, f->value_width);
    const uint8_t *live = f->live ? f->live + h->batch * f->live_step + at : NULL;
    transpose(count, f->width, columns, row_of(&f->keys, h->batch, h->head, at), f->keys.row, h->x, CHUNK);
    clear_dead(live, count, f->width, h->x);
    values_and_one(f, row_of(&f->values, h->batch, h->head, at), f->values.row, live, count, h->v, h->step);
    product(f->features, columns, f->width, f->table, f->width, h->x, CHUNK, h->features, CHUNK, 0);
    half_squares(f, columns, h->x, h->top);
    for (long j = 0; j < columns; j++) h->top[j] = j < count && (!live || live[j]) ? -h->top[j] * LOG2E : -INFINITY;
}

static void summarise(const favor *f, share *h) {
    for (long i = 0; i < f->features * h->step; i++) h->summary[i] = 0;
    for (long m = 0; m < f->features; m++) h->largest[m] = f->empty;
    for (long at = h->start; at < h->stop; at += CHUNK) {
        long count = h->stop - at < CHUNK ? h->stop - at : CHUNK, columns = padded(count);
        key_exponents(f, h, at, count);
        for (long m = 0; m < f->features; m++) {
            float *row = h->features + m * CHUNK, before = h->largest[m];
            vec most = all(before);
            for (long c = 0; c < columns; c += LANES) {
                vec exponent = load(row + c) + load(h->top + c);
                store(row + c, exponent);
                most = larger(exponent, most);
            }
            h->largest[m] = largest_of(most);
            if (h->largest[m] > before)
                for (long i = 0; i < h->step; i += LANES)
                    store(h->summary + m * h->step + i, load(h->summary + m * h->step + i) * exp2f(before - h->largest[m]));
            for (long c = 0; c < columns; c += LANES) store(row + c, exp2_of(load(row + c) - h->largest[m]));
        }
        add_outer(f, count, h->features, h->v, h->summary, h->step);
    }
}

// Adds another share's summary, each relative to its own largest exponents.
static void merge(const favor *f, share *h, const float *summary, const float *largest) {
    for (long m = 0; m < f->features; m++) {
        float most = h->largest[m] > largest[m] ? h->largest[m] : largest[m];
        float here = exp2f(h->largest[m] - most), there = exp2f(largest[m] - most);
        for (long i = m * h->step; i < (m + 1) * h->step; i += LANES)
            store(h->summary + i, load(h->summary + i) * here + load(summary + i) * there);
        h->largest[m] = most;
    }
}

static void summarise_back(const favor *f, share *h) {
    float *v_transposed = h->g, *d_v = h->output;
    for (long at = h->start; at < h->stop; at += CHUNK) {
        long count = h->stop - at < CHUNK ? h->stop - at : CHUNK, columns = padded(count);
        key_exponents(f, h, at, count);
        for (long m = 0; m < f->features; m++)
            for (long c = 0; c < columns; c += LANES)
                store(h->features + m * CHUNK + c, exp2_of(load(h->features + m * CHUNK + c) + load(h->top + c) - h->largest[m]));
        product_transposed(f->value_width, columns, f->features, h->summary, h->step, h->features, CHUNK, d_v, CHUNK, 0);
        transpose(f->value_width, count, f->value_width, d_v, CHUNK, row_of(&f->d_values, h->batch, h->head, at), f->d_values.row);
        transpose(columns, f->value_width + 1, columns, h->v, h->step, v_transposed, CHUNK);
        product(f->features, columns, f->value_width + 1, h->summary, h->step, v_transposed, CHUNK, h->d_features, CHUNK, 0);
        keys_back(f, h->batch, h->head, at, count, h->x, h->features, h->d_features, h->d_x);
    }
}

// Features of a chunk's queries, each feature with its keys' largest exponent.
static void read_queries(const favor *f, share *h, long at, long count) {
    long columns = padded(count);
    fetch_next(h, &f->queries, at, f->width);
    transpose(count, f->width, columns, row_of(&f->queries, h->batch, h->head, at), f->queries.row, h->x, CHUNK);
    product(f->features, columns, f->width, f->table, f->width, h->x, CHUNK, h->features, CHUNK, 0);
    for (long c = 0; c < columns; c += LANES) {
        vec most = all(-INFINITY);
        for (long m = 0; m < f->features; m++) most = larger(load(h->features + m * CHUNK + c) + h->largest[m], most);
        for (long m = 0; m < f->features; m++)
            store(h->features + m * CHUNK + c, exp2_of(load(h->features + m * CHUNK + c) + h->largest[m] - most));
    }
}

static void read(const favor *f, share *h) {
    for (long at = h->start; at < h->stop; at += CHUNK) {
        long count = h->stop - at < CHUNK ? h->stop - at : CHUNK;
        read_queries(f, h, at, count);
        product_transposed(f->value_width + 1, padded(count), f->features, h->summary, h->step, h->features, CHUNK, h->output, CHUNK, 0);
        write_ratio(f, h->batch, h->head, at, count, h->output);
    }
}

static void read_back(const favor *f, share *h, float *d_summary) {
    for (long i = 0; i < f->features * h->step; i++) d_summary[i] = 0;
    for (long at = h->start; at < h->stop; at += CHUNK) {
        long count = h->stop - at < CHUNK ? h->stop - at : CHUNK, columns = padded(count);
        fetch_next(h, &f->output, at, f->value_width);
        fetch_next(h, &f->d_output, at, f->value_width);
        read_queries(f, h, at, count);
        above_ratio(f, h->batch, h->head, at, count, h->g, h->g_rows, h->output);
        add_outer(f, columns, h->features, h->g_rows, d_summary, h->step);
        product(f->features, columns, f->value_width + 1, h->summary, h->step, h->g, CHUNK, h->d_features, CHUNK, 0);
        queries_back(f, h->batch, h->head, at, count, h->features, h->d_features, h->d_x);
    }
}

static float *total_of(const favor *f, float *total, long index) { return total + index * f->features * f->value_width; }

// What each share sums up by itself, and then one thread a head adds together; one share alone is the sum.
int favor_summarise(const favor *f) {
    int failed = 0;
    long shares = f->shares, heads = f->run_count * f->heads, each = summary_numbers(f), step = padded(f->value_width + 1);
#pragma omp parallel for schedule(dynamic) num_threads(f->threads)
    for (long task = 0; task < heads * shares; task++) {
        space s = space_of(space_for(f) + each, &failed);
        if (!s.start) continue;
        share h = share_of(f, task, shares, &s);
        h.summary = shares > 1 ? f->sums + task * each : take(&s, each), h.largest = h.summary + f->features * step;
        summarise(f, &h);
        if (shares == 1) {
            split(f, h.summary, step, total_of(f, f->total, h.index), f->weight + h.index * f->features);
            copy(f->maximum + h.index * f->features, h.largest, f->features);
        }
        free(s.start);
    }
    for (long index = 0; shares > 1 && index < heads; index++) {
        float *first = f->sums + index * shares * each;
        share h = {.step = step, .summary = first, .largest = first + f->features * step};
        for (long i = 1; i < shares; i++) merge(f, &h, first + i * each, first + i * each + f->features * step);
        split(f, first, step, total_of(f, f->total, index), f->weight + index * f->features);
        copy(f->maximum + index * f->features, h.largest, f->features);
    }
    return failed;
}

// Each share with the summary, or its gradient, of its head beside it.
static share with_summary(const favor *f, long task, long shares, const float *total, const float *weight, space *s) {
    share h = share_of(f, task, shares, s);
    h.summary = take(s, f->features * h.step);
    h.largest = f->maximum + h.index * f->features;
    join(f, total + h.index * f->features * f->value_width, weight + h.index * f->features, h.summary, h.step);
    return h;
}

static int each_share(const favor *f, const float *total, const float *weight, void work(const favor *, share *)) {
    int failed = 0;
#pragma omp parallel for schedule(dynamic) num_threads(f->threads)
    for (long task = 0; task < f->run_count * f->heads * f->shares; task++) {
        space s = space_of(space_for(f) + summary_numbers(f), &failed);
        if (!s.start) continue;
        share h = with_summary(f, task, f->shares, total, weight, &s);
        work(f, &h);
        free(s.start);
    }
    return failed;
}

int favor_summarise_backward(const favor *f) { return each_share(f, f->d_total, f->d_weight, summarise_back); }

int favor_read(const favor *f) { return each_share(f, f->total, f->weight, read); }

int favor_read_backward(const favor *f) {
    int failed = 0;
    long shares = f->shares, heads = f->run_count * f->heads, each = summary_numbers(f), step = padded(f->value_width + 1);
#pragma omp parallel for schedule(dynamic) num_threads(f->threads)
    for (long task = 0; task < heads * shares; task++) {
        space s = space_of(space_for(f) + 2 * each, &failed);
        if (!s.start) continue;
        share h = with_summary(f, task, shares, f->total, f->weight, &s);
        float *d_summary = shares > 1 ? f->sums + task * each : take(&s, each);
        read_back(f, &h, d_summary);
        if (shares == 1) split(f, d_summary, step, total_of(f, f->d_total, h.index), f->d_weight + h.index * f->features);
        free(s.start);
    }
    for (long index = 0; shares > 1 && index < heads; index++) {
        float *first = f->sums + index * shares * each;
        for (long i = 1; i < shares; i++)
            for (long n = 0; n < f->features * step; n += LANES) store(first + n, load(first + n) + load(first + i * each + n));
        split(f, first, step, total_of(f, f->d_total, index), f->d_weight + index * f->features);
    }
    return failed;
}
