// Causal FAVOR+ (arXiv 2009.14794, eq. 4 and appendix B.1), forward and backward. With a projection w (M, K) in which K^(-1/4) is, and
//
//     q'_i = exp(w q_i - max of these),   k'_j likewise,   h_j = max(w k_j) - |k_j|^2 / (2 sqrt(K)),   m_i = max of h_j for j <= i
//     [n_i, z_i] = sum_{j<=i} exp(h_j - m_i) (q'_i . k'_j) [v_j, 1],   o_i = n_i / z_i
//
// nothing overflows, and no maximum sees the future. Of a chunk, with the summary S (M, V + 1) before it and its mark, the m before it:
//
//     scores_ij = exp(h_j - m_i) (q'_i . k'_j) for j <= i,   [n, z]_i = exp(mark - m_i) q'_i S + sum_j scores_ij [v_j, 1]
//     S <- exp(mark - m) S + sum_j exp(h_j - m) k'_j [v_j, 1]^T with m the last m_i, which is the next mark
//
// In the code exp(h_j - m_i) are decays, exp(mark - m_i) reach, exp(h_j - m) fold. Backward goes from the last chunk to the first with the
// gradient of S after each; features and scores are made again, and so is S before a chunk, from the S kept before its stretch.
//
// Loop order: threads take shares of the runs' heads, and go through each chunk by chunk. Where there are fewer heads than threads, all shares
// are gone through twice: first for what each sums up, then with what comes before it (backward: after it).
// Caches: what a thread has of a chunk, and S, which stays from chunk to chunk, are for the second cache: 0.3 MB forward at K = V = 64 and
// M = 266, most of it features 2 (M, C) and S. Queries, keys and values are read, and outputs written, once each time that a share is
// gone through; keys and values once more where a stretch has several chunks, backward.
#include "favor.h"

typedef struct {
    long run, batch, head, start, stop, step; // step: of a summary's rows, V + 1 and what fills up a vector
    float mark;                               // the running maximum
    float *summary, *k, *q, *v, *k_features, *q_features;
    float *height, *running, *top, *fold, *reach, *decay, *scores, *mixed;
} head;

static long space_for(const favor *f) {
    long step = padded(f->value_width + 1);
    return f->features * (step + 2 * CHUNK) + 2 * f->width * CHUNK + CHUNK * step + 5 * CHUNK + 2 * CHUNK * CHUNK + step * CHUNK;
}

static head head_of(const favor *f, long index, space *s) {
    const int64_t *run = f->runs + index / f->heads * 5;
    head h = {.run = index / f->heads, .batch = run[0], .head = index % f->heads, .start = run[1], .stop = run[2]};
    h.step = padded(f->value_width + 1), h.mark = f->maximum[index];
    h.summary = take(s, f->features * h.step);
    h.k = take(s, f->width * CHUNK), h.q = take(s, f->width * CHUNK), h.v = take(s, CHUNK * h.step);
    h.k_features = take(s, f->features * CHUNK), h.q_features = take(s, f->features * CHUNK);
    h.height = take(s, CHUNK), h.running = take(s, CHUNK), h.top = take(s, CHUNK), h.fold = take(s, CHUNK), h.reach = take(s, CHUNK);
    h.decay = take(s, CHUNK * CHUNK), h.scores = take(s, CHUNK * CHUNK), h.mixed = take(s, h.step * CHUNK);
    return h;
}

static float *place(const favor *f, float *base, long index, long head, long numbers) { return base + (index * f->heads + head) * numbers; }

// Keys' features, heights, running maximum, and values, of the chunk at `at`; returns the running maximum after it.
static float read_keys(const favor *f, head *h, long at, long count) {
    long columns = padded(count);
    const uint8_t *live = f->live ? f->live + h->batch * f->live_step + at : NULL;
    transpose(count, f->width, columns, row_of(&f->keys, h->batch, h->head, at), f->keys.row, h->k, CHUNK);
    clear_dead(live, count, f->width, h->k);
    values_and_one(f, row_of(&f->values, h->batch, h->head, at), f->values.row, live, count, h->v, h->step);
    features_of(f, columns, h->k, h->k_features, h->top);
    half_squares(f, columns, h->k, h->height);
    float most = h->mark;
    for (long j = 0; j < columns; j++) {
        h->height[j] = j < count && (!live || live[j]) ? h->top[j] / LOG2E - h->height[j] : -INFINITY;
        most = h->height[j] > most || h->height[j] != h->height[j] ? h->height[j] : most; // NaN stays
        h->running[j] = most;
    }
    for (long c = 0; c < columns; c += LANES) {
        store(h->fold + c, exp_of(load(h->height + c) - all(most)));
        store(h->reach + c, exp_of(all(h->mark) - load(h->running + c)));
    }
    return most;
}

// The summary after a chunk, relative to its maximum.
static void advance(const favor *f, head *h, long count, float most) {
    float shrink = expf(h->mark - most);
    for (long j = 0; j < count; j++)
        for (long c = 0; c < h->step; c += LANES) store(h->v + j * h->step + c, load(h->v + j * h->step + c) * h->fold[j]);
    if (shrink != 1)
        for (long i = 0; i < f->features * h->step; i += LANES) store(h->summary + i, load(h->summary + i) * shrink);
    add_outer(f, count, h->k_features, h->v, h->summary, h->step);
    h->mark = most;
}

// How much of key j query i sees, [j][i]: zero before the diagonal, where it may overflow.
static void decays(head *h, long columns) {
    ivec lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    for (long j = 0; j < columns; j++)
        for (long c = 0; c < columns; c += LANES) {
            vec decay = c + LANES <= j ? (vec){0} : exp_of(all(h->height[j]) - load(h->running + c));
            store(h->decay + j * CHUNK + c, choose(lane + (int)c >= (int)j, decay, (vec){0}));
        }
}

// The product of two sides of a triangle, [j][i] for i >= j, times the decays: a (depth, C) of keys, b (depth, C) of queries.
static void triangle(const head *h, long columns, long depth, const float *a, const float *b, float *out) {
    for (long j = 0; j < columns; j += LANES) // whole vectors before the diagonal are left out
        product_transposed(LANES, columns - j, depth, a + j, CHUNK, b + j, CHUNK, out + j * CHUNK + j, CHUNK, 0);
    for (long j = 0; j < columns; j++)
        for (long c = 0; c < columns; c += LANES) {
            float *at = out + j * CHUNK + c;
            store(at, c < j / LANES * LANES ? (vec){0} : load(at) * load(h->decay + j * CHUNK + c));
        }
}

static void read_queries(const favor *f, head *h, long at, long count) {
    transpose(count, f->width, padded(count), row_of(&f->queries, h->batch, h->head, at), f->queries.row, h->q, CHUNK);
    features_of(f, padded(count), h->q, h->q_features, h->top);
}

static void forward_chunk(const favor *f, head *h, long at, long count) {
    long columns = padded(count), width = f->value_width;
    float most = read_keys(f, h, at, count);
    read_queries(f, h, at, count);
    decays(h, columns);
    triangle(h, columns, f->features, h->k_features, h->q_features, h->scores);
    product_transposed(width + 1, columns, f->features, h->summary, h->step, h->q_features, CHUNK, h->mixed, CHUNK, 0);
    scale_columns(width + 1, columns, h->mixed, h->reach);
    product_transposed(width + 1, columns, columns, h->v, h->step, h->scores, CHUNK, h->mixed, CHUNK, 1);
    write_ratio(f, h->batch, h->head, at, count, h->mixed);
    advance(f, h, count, most);
}

// The first of a share's chunks: a run's are dealt out in order, whole stretches of `stride` to each share.
static long first_chunk(const favor *f, const head *h, long share) {
    long chunks = (h->stop - h->start + CHUNK - 1) / CHUNK;
    return share < f->shares ? chunks * share / f->shares / f->stride * f->stride : chunks;
}

INLINE long count_at(const head *h, long at) { return h->stop - at < CHUNK ? h->stop - at : CHUNK; }

// A share's place in storage: a summary (M, step), and behind it a maximum.
static float *share_place(const favor *f, long task) {
    return f->sums + task * (f->features * padded(f->value_width + 1) + 64);
}

// What the keys and values of a share sum up to by themselves; nobody asks the last one.
static void sum_share(const favor *f, long task, int *failed) {
    if (task % f->shares + 1 == f->shares) return;
    space s = space_of(space_for(f), failed);
    if (!s.start) return;
    head h = head_of(f, task / f->shares, &s);
    float *sum = share_place(f, task);
    h.summary = sum, h.mark = f->empty;
    for (long i = 0; i < f->features * h.step; i++) sum[i] = 0;
    for (long chunk = first_chunk(f, &h, task % f->shares); chunk < first_chunk(f, &h, task % f->shares + 1); chunk++) {
        long at = h.start + chunk * CHUNK, count = count_at(&h, at);
        float most = read_keys(f, &h, at, count);
        advance(f, &h, count, most);
    }
    sum[f->features * h.step] = h.mark;
    free(s.start);
}

// Makes of the sums of a run's shares what has come before each.
static void add_up_shares(const favor *f, long index, int *failed) {
    long step = padded(f->value_width + 1), numbers = f->features * step;
    space s = space_of(2 * numbers, failed);
    if (!s.start) return;
    float *before = take(&s, numbers), *own = take(&s, numbers), mark = f->maximum[index];
    join(f, f->total + index * f->features * f->value_width, f->weight + index * f->features, before, step);
    for (long share = 0; share < f->shares; share++) {
        float *sum = share_place(f, index * f->shares + share), mark_of_sum = sum[numbers];
        copy(own, sum, numbers);
        copy(sum, before, numbers);
        sum[numbers] = mark;
        if (share + 1 == f->shares) break;
        float most = mark_of_sum > mark ? mark_of_sum : mark, keep = expf(mark - most), add = expf(mark_of_sum - most);
        for (long i = 0; i < numbers; i += LANES) store(before + i, load(before + i) * keep + load(own + i) * add);
        mark = most;
    }
    free(s.start);
}

static void forward_share(const favor *f, long task, int *failed) {
    space s = space_of(space_for(f), failed);
    if (!s.start) return;
    long index = task / f->shares, share = task % f->shares;
    head h = head_of(f, index, &s);
    const int64_t *run = f->runs + h.run * 5;
    float *total = f->total + index * f->features * f->value_width, *weight = f->weight + index * f->features;
    if (f->shares > 1) {
        h.summary = share_place(f, task);
        h.mark = h.summary[f->features * h.step];
    } else {
        join(f, total, weight, h.summary, h.step);
    }
    for (long chunk = first_chunk(f, &h, share); chunk < first_chunk(f, &h, share + 1); chunk++) {
        long at = h.start + chunk * CHUNK;
        if (f->marks) *place(f, f->marks, run[3] + chunk, h.head, 1) = h.mark;
        if (f->marks && chunk % f->stride == 0) {
            float *kept = place(f, f->kept, run[4] + chunk / f->stride, h.head, f->features * (f->value_width + 1));
            split(f, h.summary, h.step, kept, kept + f->features * f->value_width);
        }
        forward_chunk(f, &h, at, count_at(&h, at));
    }
    if (share + 1 == f->shares) {
        if (f->marks) *place(f, f->marks, run[3] + first_chunk(f, &h, f->shares), h.head, 1) = h.mark;
        split(f, h.summary, h.step, total, weight);
        f->maximum[index] = h.mark;
    }
    free(s.start);
}

typedef struct {
    float *d_summary, *d_features, *d_scores, *transposed, *g, *g_rows, *v_transposed, *d_v, *d_x, *output;
} slopes;

static long space_for_slopes(const favor *f) {
    long step = padded(f->value_width + 1);
    return f->features * (step + CHUNK) + 2 * CHUNK * CHUNK + 6 * step * CHUNK + f->width * CHUNK;
}

static slopes slopes_of(const favor *f, const head *h, space *s) {
    slopes d = {.d_summary = take(s, f->features * h->step), .d_features = take(s, f->features * CHUNK)};
    d.d_scores = take(s, CHUNK * CHUNK), d.transposed = take(s, CHUNK * CHUNK);
    d.g = take(s, h->step * CHUNK), d.g_rows = take(s, CHUNK * h->step), d.v_transposed = take(s, h->step * CHUNK);
    d.d_v = take(s, h->step * CHUNK), d.d_x = take(s, f->width * CHUNK), d.output = take(s, h->step * CHUNK);
    return d;
}

// The gradient of the summary before a chunk from that of the one after it, and from what the chunk's queries read.
static void summary_back(const favor *f, const head *h, const slopes *d, long count, float most) {
    float shrink = expf(h->mark - most);
    if (shrink != 1)
        for (long i = 0; i < f->features * h->step; i += LANES) store(d->d_summary + i, load(d->d_summary + i) * shrink);
    for (long j = 0; j < padded(count); j++)
        for (long c = 0; c < h->step; c += LANES) store(d->g_rows + j * h->step + c, load(d->g_rows + j * h->step + c) * h->reach[j]);
    add_outer(f, padded(count), h->q_features, d->g_rows, d->d_summary, h->step);
}

static void backward_chunk(const favor *f, head *h, slopes *d, long at, long count) {
    long columns = padded(count), width = f->value_width, features = f->features;
    float most = read_keys(f, h, at, count);
    read_queries(f, h, at, count);
    decays(h, columns);
    triangle(h, columns, features, h->k_features, h->q_features, h->scores);
    above_ratio(f, h->batch, h->head, at, count, d->g, d->g_rows, d->output);
    transpose(columns, width + 1, columns, h->v, h->step, d->v_transposed, CHUNK);
    triangle(h, columns, width + 1, d->v_transposed, d->g, d->d_scores);

    // Values: from the queries of this chunk, and from what comes after it.
    transpose(columns, columns, columns, h->scores, CHUNK, d->transposed, CHUNK);
    product_transposed(width, columns, features, d->d_summary, h->step, h->k_features, CHUNK, d->d_v, CHUNK, 0);
    scale_columns(width, columns, d->d_v, h->fold);
    product_transposed(width, columns, columns, d->g_rows, h->step, d->transposed, CHUNK, d->d_v, CHUNK, 1);
    transpose(width, count, width, d->d_v, CHUNK, row_of(&f->d_values, h->batch, h->head, at), f->d_values.row);

    // Keys.
    transpose(columns, columns, columns, d->d_scores, CHUNK, d->transposed, CHUNK);
    scale_columns(width + 1, columns, d->v_transposed, h->fold);
    product(features, columns, width + 1, d->d_summary, h->step, d->v_transposed, CHUNK, d->d_features, CHUNK, 0);
    product(features, columns, columns, h->q_features, CHUNK, d->transposed, CHUNK, d->d_features, CHUNK, 1);
    keys_back(f, h->batch, h->head, at, count, h->k, h->k_features, d->d_features, d->d_x);

    // Queries, and the summary that they read.
    scale_columns(width + 1, columns, d->g, h->reach);
    product(features, columns, width + 1, h->summary, h->step, d->g, CHUNK, d->d_features, CHUNK, 0);
    product(features, columns, columns, h->k_features, CHUNK, d->d_scores, CHUNK, d->d_features, CHUNK, 1);
    queries_back(f, h->batch, h->head, at, count, h->q_features, d->d_features, d->d_x);

    summary_back(f, h, d, count, most);
}

// What the queries of a share give to the gradient of the summary before it; nobody asks the first one.
static void sum_share_back(const favor *f, long task, int *failed) {
    if (task % f->shares == 0) return;
    space s = space_of(space_for(f) + space_for_slopes(f), failed);
    if (!s.start) return;
    head h = head_of(f, task / f->shares, &s);
    slopes d = slopes_of(f, &h, &s);
    const int64_t *run = f->runs + h.run * 5;
    d.d_summary = share_place(f, task);
    for (long i = 0; i < f->features * h.step; i++) d.d_summary[i] = 0;
    for (long chunk = first_chunk(f, &h, task % f->shares + 1) - 1; chunk >= first_chunk(f, &h, task % f->shares); chunk--) {
        long at = h.start + chunk * CHUNK, count = count_at(&h, at);
        h.mark = *place(f, f->marks, run[3] + chunk, h.head, 1);
        float most = read_keys(f, &h, at, count);
        read_queries(f, &h, at, count);
        above_ratio(f, h.batch, h.head, at, count, d.g, d.g_rows, d.output);
        summary_back(f, &h, &d, count, most);
    }
    free(s.start);
}

// Makes of these the gradient of the summary after each share.
static void add_up_shares_back(const favor *f, long index, int *failed) {
    long step = padded(f->value_width + 1), numbers = f->features * step;
    space s = space_of(space_for(f) + 2 * numbers, failed);
    if (!s.start) return;
    head h = head_of(f, index, &s);
    const int64_t *run = f->runs + h.run * 5;
    float *after = take(&s, numbers), *own = take(&s, numbers);
    join(f, f->d_total + index * f->features * f->value_width, f->d_weight + index * f->features, after, step);
    for (long share = f->shares - 1; share >= 0; share--) {
        float *sum = share_place(f, index * f->shares + share);
        float shrink = expf(*place(f, f->marks, run[3] + first_chunk(f, &h, share), h.head, 1) -
                            *place(f, f->marks, run[3] + first_chunk(f, &h, share + 1), h.head, 1));
        copy(own, sum, numbers);
        copy(sum, after, numbers);
        if (share == 0) break;
        for (long i = 0; i < numbers; i += LANES) store(after + i, load(after + i) * shrink + load(own + i));
    }
    free(s.start);
}

static void backward_share(const favor *f, long task, int *failed) {
    long numbers = f->features * (f->value_width + 1), index = task / f->shares, share = task % f->shares, chunk;
    space s = space_of(space_for(f) + space_for_slopes(f) + f->stride * numbers, failed);
    if (!s.start) return;
    head h = head_of(f, index, &s);
    slopes d = slopes_of(f, &h, &s);
    float *between = take(&s, f->stride * numbers); // summaries before the chunks of a stretch of which only the first was kept
    const int64_t *run = f->runs + h.run * 5;
    float *d_total = f->d_total + index * f->features * f->value_width, *d_weight = f->d_weight + index * f->features;
    if (f->shares > 1) d.d_summary = share_place(f, task);
    else join(f, d_total, d_weight, d.d_summary, h.step);
    for (long last = first_chunk(f, &h, share + 1); last > first_chunk(f, &h, share); last = chunk) {
        chunk = (last - 1) / f->stride * f->stride;
        float *kept = place(f, f->kept, run[4] + chunk / f->stride, h.head, numbers);
        join(f, kept, kept + f->features * f->value_width, h.summary, h.step);
        for (long i = chunk; i + 1 < last; i++) {
            float *before = between + (i - chunk) * numbers;
            split(f, h.summary, h.step, before, before + f->features * f->value_width);
            h.mark = *place(f, f->marks, run[3] + i, h.head, 1);
            float most = read_keys(f, &h, h.start + i * CHUNK, CHUNK);
            advance(f, &h, CHUNK, most);
        }
        for (long i = last - 1; i >= chunk; i--) {
            float *before = between + (i - chunk) * numbers;
            if (i + 1 < last) join(f, before, before + f->features * f->value_width, h.summary, h.step);
            h.mark = *place(f, f->marks, run[3] + i, h.head, 1);
            backward_chunk(f, &h, &d, h.start + i * CHUNK, count_at(&h, h.start + i * CHUNK));
        }
    }
    if (share == 0) split(f, d.d_summary, h.step, d_total, d_weight);
    free(s.start);
}

typedef void work(const favor *, long, int *);

// Where there are fewer heads than threads, a run is cut into shares: first what each sums up to, then with what comes before each.
static int in_shares(const favor *f, work sum, work add_up, work finish) {
    long heads = f->run_count * f->heads;
    int failed = 0;
    if (f->shares > 1) {
#pragma omp parallel for schedule(dynamic) num_threads(f->threads)
        for (long task = 0; task < heads * f->shares; task++) sum(f, task, &failed);
#pragma omp parallel for schedule(dynamic) num_threads(f->threads)
        for (long index = 0; index < heads; index++) add_up(f, index, &failed);
    }
#pragma omp parallel for schedule(dynamic) num_threads(f->threads)
    for (long task = 0; task < heads * f->shares; task++) finish(f, task, &failed);
    return failed;
}

int favor_causal_forward(const favor *f) { return in_shares(f, sum_share, add_up_shares, forward_share); }

int favor_causal_backward(const favor *f) { return in_shares(f, sum_share_back, add_up_shares_back, backward_share); }

const field_layout favor_layout[] = {
    STRUCT(favor), FIELD(favor, queries), FIELD(favor, keys), FIELD(favor, values), FIELD(favor, output), FIELD(favor, d_output),
    FIELD(favor, d_queries), FIELD(favor, d_keys), FIELD(favor, d_values), FIELD(favor, live), FIELD(favor, live_step),
    FIELD(favor, projection), FIELD(favor, table), FIELD(favor, runs), FIELD(favor, run_count), FIELD(favor, heads), FIELD(favor, width),
    FIELD(favor, value_width), FIELD(favor, features), FIELD(favor, stride), FIELD(favor, shares), FIELD(favor, threads),
    FIELD(favor, total), FIELD(favor, weight), FIELD(favor, maximum), FIELD(favor, d_total), FIELD(favor, d_weight),
    FIELD(favor, normaliser), FIELD(favor, length), FIELD(favor, marks), FIELD(favor, sums), FIELD(favor, kept), FIELD(favor, nothing),
    FIELD(favor, empty), END,
};
