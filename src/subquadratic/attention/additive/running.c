// The softmax-weighted mean of everything up to each position, forward and backward, as Fastformer's additive attention (arXiv 2108.09084)
// wants it in its causal form: of values turned by rotary angles on the way, and multiplied by the query that reads it. Of logits a and
// values x,
//
//     mean_i = sum_{j<=i} exp(a_j - m_i) x_j / sum_{j<=i} exp(a_j - m_i),   m_i = max of a_j for j <= i,   o_i = q_i * mean_i
//
// where both sums are recurrences in i, which begin anew with each chunk; the sums before the chunk are added to them, rescaled. With angles
// q_i and x_j are turned, and o_i is the complex product of q_i and the conjugate of mean_i; without queries o_i is the mean. Backward goes
// from the last position to the first, and makes means again from the sums kept before each chunk.
//
// Loop order: threads take groups of heads side by side, and go through the chunks; of each through the heads, and of each head through
// vectors of channels, and of each vector through the positions.
// Caches: a thread's values and means, (C, K) each, are for the first two: 32 KB together at K = 64. The sums of a vector of channels
// stay in registers within a chunk. Everything else is read or written once, a head's next chunk asked for as this one begins.
//
// B batch, H heads, N length, C chunk, K head width. A position's channels lie along the vector.
#include "tensor.h"

typedef struct {
    rows values, queries, output; // (B, H, N, K); without queries the output is the mean itself
    rows d_output, d_values, d_queries;
    const float *logits; // (B, H, N)
    float *d_logits;
    const float *turns;              // of values and queries, cosines and sines, (B or 1, N, K); null: nothing is turned
    const uint8_t *live;             // (B, N), 1 = a real token; null: all are
    float *maximum, *weight, *total; // the state (B, H), (B, H), (B, H, K): before, then after; of gradients: after, then before
    float *kept;                     // (chunks, B, H, 2 + K), the state before each chunk; null: it is not kept
    int64_t batch, heads, length, width, turns_step, threads;
} running;

// One head's chunk, rows of `step` numbers filled up with zeros. Of its positions: the largest logit so far, and exponentials of
// differences: of the own logit, of the largest before the position and before the chunk, to the largest so far.
typedef struct {
    long batch, head, at, count, step;
    const uint8_t *live;
    const float *turns;
    float *x, *mean;                   // values and means (C, step)
    float *asked, *d_asked, *row;      // of one position
    float most, weight, *total;        // the state before the chunk
    float *d_total;                    // the gradient of that after it
    float top[CHUNK], own[CHUNK], shrink[CHUNK], before[CHUNK], inverse[CHUNK]; // inverse: 1 / sum of weights, or zero
} chunk;

static chunk chunk_in(const running *r, space *m, int *failed) {
    chunk c = {.step = padded_to_16(r->width)};
    *m = space_of((2 * CHUNK + 5) * c.step, failed);
    if (!m->start) return c;
    c.x = take_zeros(m, CHUNK * c.step), c.mean = take_zeros(m, CHUNK * c.step);
    c.total = take_zeros(m, c.step), c.asked = take_zeros(m, c.step), c.d_asked = take_zeros(m, c.step), c.row = take_zeros(m, c.step);
    c.d_total = take_zeros(m, c.step);
    return c;
}

// The chunk at `at` of a head; the next is `ahead`.
static void go_to(const running *r, chunk *c, long index, long at, long ahead) {
    long next = at + ahead;
    c->batch = index / r->heads, c->head = index % r->heads, c->at = at, c->count = least(CHUNK, r->length - at);
    c->live = r->live ? r->live + c->batch * r->length + at : NULL;
    c->turns = r->turns ? r->turns + c->batch * r->turns_step + at * r->width : NULL;
    const rows *read[] = {&r->values, &r->queries, &r->d_output};
    for (int i = 0; i < 3 && next >= 0; i++)
        if (read[i]->at) fetch(read[i], c->batch, c->head, next, least(next + CHUNK, r->length), r->width);
}

static void read_row(const running *r, const chunk *c, const rows *from, long j, float *to) {
    const float *x = row_of(from, c->batch, c->head, c->at + j);
    if (c->turns) times_complex(r->width / 2, x, c->turns + j * r->width, 1, to);
    else copy(to, x, r->width);
}

static void write_row(const running *r, const chunk *c, const float *from, long j, const rows *to) {
    float *x = row_of(to, c->batch, c->head, c->at + j);
    if (c->turns) times_complex(r->width / 2, from, c->turns + j * r->width, -1, x);
    else copy(x, from, r->width);
}

// Means of a chunk. Gives the state after it relative to its last maximum: sums go from the chunk's start, so that rounding does not grow
// with what came before.
static void means_of(const running *r, chunk *c, float *weight_after, float *total_after) {
    float logits[CHUNK], last = c->most;
    for (long j = 0; j < CHUNK; j++) {
        int real = j < c->count && (!c->live || c->live[j]);
        logits[j] = real ? r->logits[(c->batch * r->heads + c->head) * r->length + c->at + j] : -INFINITY;
        c->shrink[j] = last;
        last = c->top[j] = most_of(last, logits[j]);
        if (real) read_row(r, c, &r->values, j, c->x + j * c->step);
        else memset(c->x + j * c->step, 0, r->width * 4);
    }
    for (long j = 0; j < CHUNK; j += LANES) {
        vec top = load(c->top + j);
        store(c->own + j, exp_of(load(logits + j) - top));
        store(c->shrink + j, exp_of(load(c->shrink + j) - top));
        store(c->before + j, exp_of(c->most - top));
    }
    float inner = 0, weight = 0;
    for (long j = 0; j < c->count; j++) {
        inner = inner * c->shrink[j] + c->own[j];
        weight = inner + c->before[j] * c->weight;
        c->inverse[j] = weight > 0 || weight != weight ? 1 / weight : 0;
    }
    *weight_after = weight;
    for (long i = 0; i < c->step; i += LANES) {
        vec inner = {0}, arriving = load(c->total + i), total = {0};
        for (long j = 0; j < c->count; j++) {
            inner = inner * c->shrink[j] + load(c->x + j * c->step + i) * c->own[j];
            total = inner + arriving * c->before[j];
            store(c->mean + j * c->step + i, total * c->inverse[j]);
        }
        store(total_after + i, total);
    }
}

INLINE float *kept_at(const running *r, long at, long index) {
    return r->kept + (at / CHUNK * r->batch * r->heads + index) * (r->width + 2);
}

static void write_output(const running *r, const chunk *c) {
    for (long j = 0; j < c->count; j++) {
        float *to = row_of(&r->output, c->batch, c->head, c->at + j);
        const float *mean = c->mean + j * c->step;
        if (!r->queries.at) {
            copy(to, mean, r->width);
            continue;
        }
        read_row(r, c, &r->queries, j, c->asked);
        if (c->turns) times_complex(r->width / 2, c->asked, mean, -1, to);
        else
            for (long i = 0; i < r->width; i++) to[i] = c->asked[i] * mean[i];
    }
}

static void forward_chunk(const running *r, chunk *c, long index) {
    long width = r->width;
    float *total = r->total + index * width;
    c->most = r->maximum[index], c->weight = r->weight[index];
    copy(c->total, total, width);
    if (r->kept) {
        float *kept = kept_at(r, c->at, index);
        kept[0] = c->most, kept[1] = c->weight;
        copy(kept + 2, total, width);
    }
    means_of(r, c, r->weight + index, c->total);
    r->maximum[index] = c->top[c->count - 1];
    copy(total, c->total, width);
    write_output(r, c);
}

// Of the chunk's means: their gradients over the sums of weights, in the place of the means, and how much of them falls away with a weight.
static void above_means(const running *r, const chunk *c, float *drop) {
    for (long j = 0; j < c->count; j++) {
        const float *given = row_of(&r->d_output, c->batch, c->head, c->at + j);
        float *mean = c->mean + j * c->step, *slope = c->row;
        if (!r->queries.at) copy(slope, given, r->width);
        else {
            read_row(r, c, &r->queries, j, c->asked);
            if (c->turns) {
                times_complex(r->width / 2, given, mean, 1, c->d_asked);
                times_complex(r->width / 2, c->asked, given, -1, slope);
            } else
                for (long i = 0; i < r->width; i++) c->d_asked[i] = given[i] * mean[i], slope[i] = c->asked[i] * given[i];
            write_row(r, c, c->d_asked, j, &r->d_queries);
        }
        drop[j] = c->inverse[j] * dot(slope, mean, c->step);
        for (long i = 0; i < c->step; i += LANES) store(mean + i, load(slope + i) * c->inverse[j]);
    }
}

// Gradients of a chunk from that of the state after it, relative to its last maximum, which becomes that of the state before.
static void backward_chunk(const running *r, chunk *c, long index) {
    const float *kept = kept_at(r, c->at, index);
    float after[CHUNK], drop[CHUNK], unused, *d_weight = r->weight + index, *d_total = c->d_total;
    long last = c->count - 1, width = r->width;
    c->most = kept[0], c->weight = kept[1];
    copy(c->total, kept + 2, width);
    copy(d_total, r->total + index * width, width);
    means_of(r, c, &unused, c->row);
    above_means(r, c, drop);
    for (long j = 0; j < CHUNK; j += LANES) store(after + j, exp_of(load(c->top + j) - c->top[last]));
    for (long i = 0; i < c->step; i += LANES) {
        vec inner = {0}, arriving = load(d_total + i), whole = {0};
        for (long j = last; j >= 0; j--) {
            inner = load(c->mean + j * c->step + i) + (j < last ? inner * c->shrink[j + 1] : (vec){0});
            whole = inner + arriving * after[j];
            store(c->mean + j * c->step + i, whole);
        }
        store(d_total + i, whole * c->shrink[0]);
    }
    copy(r->total + index * width, d_total, width);
    float inner = 0, whole = 0, *d_logits = r->d_logits + index * r->length + c->at;
    for (long j = last; j >= 0; j--) {
        float *slope = c->mean + j * c->step;
        int real = !c->live || c->live[j];
        inner = (j < last ? inner * c->shrink[j + 1] : 0) - drop[j];
        whole = inner + *d_weight * after[j];
        d_logits[j] = real ? c->own[j] * (dot(slope, c->x + j * c->step, c->step) + whole) : 0;
        for (long i = 0; i < c->step; i += LANES) store(slope + i, real ? load(slope + i) * c->own[j] : (vec){0});
        write_row(r, c, slope, j, &r->d_values);
    }
    *d_weight = whole * c->shrink[0];
}

// Each thread takes heads that lie side by side, chunk by chunk: what one asks memory for stands beside what the next will.
static int in_groups(const running *r, int backward, void each(const running *, chunk *, long)) {
    long groups = least(r->heads, r->threads), chunks = (r->length + CHUNK - 1) / CHUNK;
    int failed = 0;
#pragma omp parallel num_threads(r->threads)
    {
        space m;
        chunk c = chunk_in(r, &m, &failed);
#pragma omp for schedule(dynamic)
        for (long task = 0; task < r->batch * groups; task++) {
            long group = task % groups, first = task / groups * r->heads;
            for (long i = 0; m.start && i < chunks; i++)
                for (long head = r->heads * group / groups; head < r->heads * (group + 1) / groups; head++) {
                    go_to(r, &c, first + head, (backward ? chunks - 1 - i : i) * CHUNK, backward ? -CHUNK : CHUNK);
                    each(r, &c, first + head);
                }
        }
        free(m.start);
    }
    return failed;
}

int prefix_softmax_forward(const running *r) { return in_groups(r, 0, forward_chunk); }

int prefix_softmax_backward(const running *r) { return in_groups(r, 1, backward_chunk); }

const field_layout prefix_softmax_layout[] = {
    STRUCT(running), FIELD(running, values), FIELD(running, queries), FIELD(running, output), FIELD(running, d_output),
    FIELD(running, d_values), FIELD(running, d_queries), FIELD(running, logits), FIELD(running, d_logits), FIELD(running, turns),
    FIELD(running, live), FIELD(running, maximum), FIELD(running, weight), FIELD(running, total), FIELD(running, kept),
    FIELD(running, batch), FIELD(running, heads), FIELD(running, length), FIELD(running, width), FIELD(running, turns_step),
    FIELD(running, threads), END,
};
