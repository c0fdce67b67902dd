// Softmax pooling of a sequence, as Fastformer's global vectors are made (arXiv 2108.09084, eqs. 3 to 6), forward and backward: of positions
// x_i (D,), with weights w_h (D,) of each head,
//
//     a_ih = scale w_h . x_i,   p_ih = softmax over i,   mean_h = sum_i p_ih x_ih
//     da_ih = p_ih (x_ih - mean_h) . dmean_h,   dx_ih = p_ih dmean_h + scale (sum_g da_ig w_g)_h,   dw_h = scale sum_i da_ih x_i
//
// where positions are turned by rotary angles on the way to the mean (`late`: once for the logits, and once more for the mean), and need not
// be written down. Logits and mean are made in one pass, as in online softmax; logits and each head's normaliser are kept for backward.
//
// Loop order: threads take shares of a row's positions, and go through FEW of these at a time: first all heads are read and turned, then each
// head's logits made and its positions added up. Then shares are put together, head by head.
// Caches: FEW positions in both forms and the weights, (2 FEW + H) D numbers or 80 KB at D = 512 and H = 8, are for the first two; they are
// read from memory once.
//
// B batch, H heads, N length, K head width, D = H K; a position's heads stand side by side, each filled up to whole vectors in a thread's own
// memory.
#include "tensor.h"

#define FEW 16 // positions at a time

typedef struct {
    rows queries;           // x (B, H, N, K)
    rows output, d_output;  // what the mean is of, and what reaches it besides, (B, H, N, K); null: not written
    rows d_queries, d_more; // of x; what reaches x besides, null: nothing
    const float *turns;     // cosines and sines, (B or 1, N, K); null: nothing is turned
    const uint8_t *live;    // (B, N), 1 = a real token; null: all are
    const float *weights;   // (B or 1, H, D)
    float *logits;          // (B, N, H), to base 2
    float *normaliser;      // (B, H, 2): the largest, and 1 / the sum of exponentials relative to it (their logarithm would cost digits)
    float *mean;            // (B, H, K)
    const float *d_mean;
    float *d_weights;       // (B, H, D)
    float *sums;            // (B, shares, H (H padded_to_16(K) + 16)): what each share of the positions sums up
    int64_t batch, heads, length, width, turns_step, weights_step, shares, threads;
    int64_t late;           // 0: logits are of x, the mean is of x turned once. 1: logits of x turned once, the mean of x turned twice
    float scale;            // of logits
} pool;

typedef struct {
    long batch, start, stop, head, wide; // head: K, filled up; wide: H of these
    const float *turns;
    float *weights;                             // (H, wide)
    float *asked, *seen;                        // of positions at hand: what logits are of, and what goes into the mean, (FEW, wide)
    float *by_head;                             // (H, FEW)
    float *mean, *apart;                        // backward: (wide); (FEW, head), a head's positions less its mean
} share;

static long space_for_share(const pool *p) {
    long wide = p->heads * padded_to_16(p->width);
    return (p->heads + 2 * FEW + 1) * wide + p->heads * FEW + FEW * padded_to_16(p->width);
}

static share share_of(const pool *p, long task, float scale, space *s) {
    long each = (p->length + p->shares - 1) / p->shares, head = padded_to_16(p->width), wide = p->heads * head;
    share w = {.batch = task / p->shares, .start = task % p->shares * each, .head = head, .wide = wide};
    w.stop = least(w.start + each, p->length);
    w.turns = p->turns ? p->turns + w.batch * p->turns_step : NULL;
    w.weights = take_zeros(s, p->heads * wide), w.by_head = take_zeros(s, p->heads * FEW);
    w.mean = take_zeros(s, wide), w.apart = take_zeros(s, FEW * head);
    w.asked = take_zeros(s, FEW * wide), w.seen = take_zeros(s, FEW * wide);
    for (long i = 0; i < p->heads * p->heads; i++)
        for (long c = 0; c < p->width; c++)
            w.weights[i * head + c] = p->weights[w.batch * p->weights_step + i * p->width + c] * scale;
    return w;
}

INLINE int is_live(const pool *p, const share *w, long at) { return !p->live || p->live[w->batch * p->length + at]; }

// `count` positions from `at` on; zeros where there is no real token, since what stands there may be anything.
static void look(const pool *p, share *w, long at, long count) {
    for (long j = 0; j < count; j++)
        for (long head = 0; head < p->heads; head++) {
            const float *x = row_of(&p->queries, w->batch, head, at + j), *turn = w->turns ? w->turns + (at + j) * p->width : NULL;
            float *asked = w->asked + j * w->wide + head * w->head, *seen = w->seen + j * w->wide + head * w->head;
            if (w->turns && p->late) times_complex(p->width / 2, x, turn, 1, asked);
            else copy(asked, x, p->width);
            if (w->turns) times_complex(p->width / 2, asked, turn, 1, seen);
            else copy(seen, asked, p->width);
            if (p->output.at) copy(row_of(&p->output, w->batch, head, at + j), seen, p->width);
        }
    for (long j = 0; j < count; j++)
        if (!is_live(p, w, at + j)) memset(w->asked + j * w->wide, 0, w->wide * 4), memset(w->seen + j * w->wide, 0, w->wide * 4);
}

// Largest logit, sum of exponentials relative to it, and 16 numbers on the sum of positions by them, of each head: (H, 16 + padded_to_16(K)).
static void forward_share(const pool *p, share *w, float *sums) {
    long heads = p->heads, step = 16 + w->head;
    for (long head = 0; head < heads; head++) sums[head * step] = -INFINITY;
    for (long at = w->start; at < w->stop; at += FEW) {
        long count = least(w->stop - at, FEW);
        look(p, w, at, count);
        for (long head = 0; head < heads; head++) {
            float *logits = w->by_head + head * FEW, *sum = sums + head * step, most = sum[0];
            weighted_rows(count, w->wide, w->asked, w->wide, w->weights + head * w->wide, logits, 1, 0);
            for (long j = 0; j < FEW; j++) {
                if (j >= count || !is_live(p, w, at + j)) logits[j] = -INFINITY;
                if (j < count) p->logits[(w->batch * p->length + at + j) * heads + head] = logits[j];
                most = most_of(most, logits[j]);
            }
            if (most == -INFINITY) continue;
            float shrink = exp2f(sum[0] - most);
            sum[0] = most, sum[1] *= shrink;
            for (long c = 0; c < w->head; c += LANES) store(sum + 16 + c, load(sum + 16 + c) * shrink);
            for (long j = 0; j < FEW; j += LANES) {
                vec weights = exp2_of(load(logits + j) - most);
                store(logits + j, weights);
                sum[1] += sum_of(weights);
            }
            product(1, w->head, count, logits, FEW, w->seen + head * w->head, w->wide, sum + 16, step, 1);
        }
    }
}

static long each_share(const pool *p) { return p->heads * (p->heads * padded_to_16(p->width) + 16); }

int pool_forward(const pool *p) {
    int failed = 0;
    long heads = p->heads, width = p->width, each = each_share(p), step = 16 + padded_to_16(width);
#pragma omp parallel num_threads(p->threads)
    {
#pragma omp for schedule(dynamic)
        for (long task = 0; task < p->batch * p->shares; task++) {
            space s = space_of(space_for_share(p), &failed);
            if (!s.start) continue;
            share w = share_of(p, task, LOG2E * p->scale, &s);
            float *own = p->sums + task * each;
            memset(own, 0, heads * step * 4);
            forward_share(p, &w, own);
            free(s.start);
        }
#pragma omp for schedule(static)
        for (long index = 0; index < p->batch * heads; index++) {
            const float *first = p->sums + index / heads * p->shares * each + index % heads * step;
            float most = -INFINITY, sum = 0, *mean = p->mean + index * width;
            for (long i = 0; i < p->shares; i++) most = most_of(most, first[i * each]);
            memset(mean, 0, width * 4);
            p->normaliser[2 * index] = p->normaliser[2 * index + 1] = 0;
            if (most == -INFINITY) continue; // no real token
            for (long i = 0; i < p->shares; i++, first += each) {
                float shrink = exp2f(first[0] - most);
                sum += first[1] * shrink;
                for (long c = 0; c < width; c++) mean[c] += first[16 + c] * shrink;
            }
            for (long i = 0; i < width; i++) mean[i] /= sum;
            p->normaliser[2 * index] = most, p->normaliser[2 * index + 1] = 1 / sum;
        }
    }
    return failed;
}

// Of positions at hand: what the mean and the logits hand back to each, there is d_seen (FEW, wide) to add to, and d_asked to be made.
static void backward_heads(const pool *p, share *w, long at, long count, const float *d_mean, float *d_seen, float *d_asked, float *d_weights) {
    const float *normaliser = p->normaliser + w->batch * p->heads * 2;
    for (long head = 0; head < p->heads; head++) {
        const float *given = d_mean + head * w->head;
        float weights[FEW], *slopes = w->by_head + head * FEW, *apart = w->apart;
        // A logit's slope is that of its position less that of the mean. Where a position is nearly the mean itself both are alike to the last
        // digits, so that what they differ by is computed first.
        for (long j = 0; j < count; j++)
            for (long c = 0; c < w->head; c += LANES)
                store(apart + j * w->head + c, load(w->seen + j * w->wide + head * w->head + c) - load(w->mean + head * w->head + c));
        for (long j = 0; j < FEW; j++) weights[j] = j < count ? p->logits[(w->batch * p->length + at + j) * p->heads + head] : -INFINITY;
        weighted_rows(count, w->head, apart, w->head, given, slopes, 1, 0);
        for (long j = 0; j < FEW; j += LANES) {
            vec weight = exp2_of(load(weights + j) - normaliser[2 * head]) * normaliser[2 * head + 1];
            store(weights + j, weight);
            store(slopes + j, weight * load(slopes + j) * p->scale);
        }
        for (long j = 0; j < count; j++)
            for (float *to = d_seen + j * w->wide + head * w->head, *end = to + w->head; to < end; to += LANES)
                store(to, load(to) + weights[j] * load(given + (to - end) + w->head));
    }
    product_transposed(count, w->wide, p->heads, w->by_head, FEW, w->weights, w->wide, d_asked, w->wide, 0);
    product(p->heads, w->wide, count, w->by_head, FEW, w->asked, w->wide, d_weights, w->wide, 1);
}

static void backward_share(const pool *p, share *w, float *d_weights, space *s) {
    long width = p->width, half = width / 2;
    float *d_asked = take(s, FEW * w->wide), *d_seen = take_zeros(s, FEW * w->wide), *d_mean = take_zeros(s, w->wide);
    for (long head = 0; head < p->heads; head++) {
        copy(d_mean + head * w->head, p->d_mean + (w->batch * p->heads + head) * width, width);
        copy(w->mean + head * w->head, p->mean + (w->batch * p->heads + head) * width, width);
    }
    for (long at = w->start; at < w->stop; at += FEW) {
        long count = least(w->stop - at, FEW);
        look(p, w, at, count);
        for (long i = 0; i < count * p->heads; i++) {
            float *to = d_seen + i * w->head;
            if (p->d_output.at) copy(to, row_of(&p->d_output, w->batch, i % p->heads, at + i / p->heads), width);
            else memset(to, 0, width * 4);
        }
        backward_heads(p, w, at, count, d_mean, d_seen, d_asked, d_weights);
        for (long i = 0; i < count * p->heads; i++) {
            long head = i % p->heads, position = at + i / p->heads;
            const float *turn = w->turns ? w->turns + position * width : NULL;
            const float *more = p->d_more.at ? row_of(&p->d_more, w->batch, head, position) : NULL;
            float *given = d_seen + i * w->head, *to = row_of(&p->d_queries, w->batch, head, position);
            if (w->turns) times_complex(half, given, turn, -1, given);
            add_to(given, d_asked + i * w->head, width);
            if (w->turns && p->late) times_complex(half, given, turn, -1, given);
            if (more) add_to(given, more, width);
            copy(to, given, width);
        }
    }
}

int pool_backward(const pool *p) {
    int failed = 0;
    long heads = p->heads, wide = heads * padded_to_16(p->width), each = each_share(p);
#pragma omp parallel num_threads(p->threads)
    {
#pragma omp for schedule(dynamic)
        for (long task = 0; task < p->batch * p->shares; task++) {
            space s = space_of(space_for_share(p) + (2 * FEW + 1) * wide, &failed);
            if (!s.start) continue;
            share w = share_of(p, task, 1, &s);
            float *own = p->sums + task * each;
            memset(own, 0, heads * wide * 4);
            backward_share(p, &w, own, &s);
            free(s.start);
        }
        for (long batch = 0; batch < p->batch; batch++)
            add_shares(p->shares, heads * heads, p->width, p->sums + batch * p->shares * each, padded_to_16(p->width), each,
                       p->d_weights + batch * heads * heads * p->width);
    }
    return failed;
}

const field_layout pool_layout[] = {
    STRUCT(pool), FIELD(pool, queries), FIELD(pool, output), FIELD(pool, d_output), FIELD(pool, d_queries), FIELD(pool, d_more),
    FIELD(pool, turns), FIELD(pool, live), FIELD(pool, weights), FIELD(pool, logits), FIELD(pool, normaliser), FIELD(pool, mean),
    FIELD(pool, d_mean), FIELD(pool, d_weights), FIELD(pool, sums), FIELD(pool, batch), FIELD(pool, heads), FIELD(pool, length),
    FIELD(pool, width), FIELD(pool, turns_step), FIELD(pool, weights_step), FIELD(pool, shares), FIELD(pool, threads), FIELD(pool, late),
    FIELD(pool, scale), END,
};
