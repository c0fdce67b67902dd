// Softmax pooling of a sequence, as Fastformer's global vectors are made (arXiv 2108.09084, eqs. 3 to 6): logits of every position, and the
// mean of all positions under their softmax, in one pass; positions are turned by rotary angles on the way, and need not be written down.
//
// B batch, H heads, N length, K head width, D = H K; a position's heads stand side by side.
#include "tensor.h"

typedef struct {
    rows queries;           // x (B, H, N, K)
    rows output, d_output;  // what the mean is of, and what reaches it besides, (B, H, N, K); null: not written
    rows d_queries;         // of x
    const float *turns;     // cosines and sines, (B or 1, N, K); null: nothing is turned
    const uint8_t *live;    // (B, N), 1 = a real token; null: all are
    const float *weights;   // (B or 1, H, D)
    float *logits;          // (B, N, H), to base 2
    float *normaliser;      // (B, H), log2 of their sum of exponentials
    float *mean;            // (B, H, K)
    const float *d_mean;
    float *d_weights;       // (B, H, D)
    float *sums;            // (B, shares, H (WIDE(D) + 2)): what each share of the positions sums up
    int64_t batch, heads, length, width, turns_step, weights_step, shares, threads;
    int64_t late;           // 0: logits are of x, the mean is of x turned once. 1: logits of x turned once, the mean of x turned twice
    float scale;            // of logits
} pool;

// Each head's channels times the complex numbers of its position, or times their conjugates.
INLINE void turn_heads(const pool *p, const float *x, const float *by, float sign, float *to) {
    for (long head = 0; head < p->heads; head++, x += p->width, to += p->width) times_complex(p->width / 2, x, by, sign, to);
}

// to += factor x
INLINE void add_scaled(float *to, const float *x, float factor, long numbers) {
    for (long i = 0; i < numbers; i++) to[i] += x[i] * factor;
}

INLINE void gather(const pool *p, const rows *from, long batch, long at, float *to) {
    for (long head = 0; head < p->heads; head++) copy(to + head * p->width, row_of(from, batch, head, at), p->width);
}

INLINE void scatter(const pool *p, const float *from, const rows *to, long batch, long at) {
    for (long head = 0; head < p->heads; head++) copy(row_of(to, batch, head, at), from + head * p->width, p->width);
}

typedef struct {
    long batch, share, start, stop, wide; // wide: D, filled up
    const float *turns;
    float *weights;      // (H, wide), times scale and log2(e)
    float *asked, *seen; // of a position: what its logits are of, and what goes into the mean (wide,)
} part;

static part part_of(const pool *p, long task, space *s) {
    long dim = p->heads * p->width, each = (p->length + p->shares - 1) / p->shares;
    part w = {.batch = task / p->shares, .share = task % p->shares, .wide = WIDE(dim)};
    w.start = w.share * each, w.stop = least(w.start + each, p->length);
    w.turns = p->turns ? p->turns + w.batch * p->turns_step : NULL;
    w.weights = take(s, p->heads * w.wide), w.asked = take(s, w.wide), w.seen = take(s, w.wide);
    memset(w.weights, 0, p->heads * w.wide * 4), memset(w.asked, 0, w.wide * 4), memset(w.seen, 0, w.wide * 4);
    const float *weights = p->weights + w.batch * p->weights_step;
    for (long head = 0; head < p->heads; head++)
        for (long i = 0; i < dim; i++) w.weights[head * w.wide + i] = weights[head * dim + i] * p->scale;
    return w;
}

static void look(const pool *p, part *w, long at) {
    gather(p, &p->queries, w->batch, at, w->asked);
    if (!w->turns) {
        copy(w->seen, w->asked, p->heads * p->width);
        return;
    }
    const float *by = w->turns + at * p->width;
    turn_heads(p, w->asked, by, 1, w->seen);
    if (p->late) {
        copy(w->asked, w->seen, p->heads * p->width);
        turn_heads(p, w->asked, by, 1, w->seen);
    }
}

// Largest logit, sum of exponentials relative to it, and the sum of positions by them, of each head: (H, 2 + K) in `sums`.
static void forward_part(const pool *p, part *w, float *sums, float *block) {
    long heads = p->heads, width = p->width;
    for (long head = 0; head < heads; head++) sums[head * (width + 2)] = -INFINITY;
    for (long at = w->start; at < w->stop; at += CHUNK) {
        long count = least(w->stop - at, CHUNK);
        float *logits = p->logits + (w->batch * p->length + at) * heads;
        for (long j = 0; j < count; j++) {
            long live = !p->live || p->live[w->batch * p->length + at + j];
            look(p, w, at + j);
            copy(block + j * w->wide, w->seen, heads * width);
            if (p->output.at) scatter(p, w->seen, &p->output, w->batch, at + j);
            for (long head = 0; head < heads; head++)
                logits[j * heads + head] = live ? LOG2E * dot(w->asked, w->weights + head * w->wide, w->wide) : -INFINITY;
        }
        for (long head = 0; head < heads; head++) {
            float *sum = sums + head * (width + 2), most = sum[0];
            for (long j = 0; j < count; j++) most = most_of(most, logits[j * heads + head]);
            if (most == -INFINITY) continue;
            float shrink = exp2f(sum[0] - most);
            sum[0] = most;
            for (long i = 1; i < width + 2; i++) sum[i] *= shrink;
            for (long j = 0; j < count; j++) {
                if (logits[j * heads + head] == -INFINITY) continue; // what stands at padding may be anything
                float weight = exp2f(logits[j * heads + head] - most);
                sum[1] += weight;
                add_scaled(sum + 2, block + j * w->wide + head * width, weight, width);
            }
        }
    }
}

void pool_forward(const pool *p) {
    long heads = p->heads, width = p->width, each = heads * (WIDE(heads * width) + 2);
#pragma omp parallel num_threads(p->threads)
    {
#pragma omp for schedule(dynamic)
        for (long task = 0; task < p->batch * p->shares; task++) {
            space s = space_of((heads + 2 + CHUNK) * WIDE(heads * width) + 64);
            part w = part_of(p, task, &s);
            float *own = p->sums + task * each;
            memset(own, 0, each * 4);
            forward_part(p, &w, own, take(&s, CHUNK * w.wide));
            free(s.start);
        }
#pragma omp for schedule(static)
        for (long index = 0; index < p->batch * heads; index++) {
            const float *first = p->sums + index / heads * p->shares * each + index % heads * (width + 2);
            float most = -INFINITY, sum = 0, *mean = p->mean + index * width;
            for (long share = 0; share < p->shares; share++) most = most_of(most, first[share * each]);
            memset(mean, 0, width * 4);
            p->normaliser[index] = INFINITY;
            if (most == -INFINITY) continue; // no real token
            for (long share = 0; share < p->shares; share++) {
                float shrink = exp2f(first[share * each] - most);
                sum += first[share * each + 1] * shrink;
                add_scaled(mean, first + share * each + 2, shrink, width);
            }
            for (long i = 0; i < width; i++) mean[i] /= sum;
            p->normaliser[index] = most + log2f(sum);
        }
    }
}

static void backward_part(const pool *p, part *w, float *d_weights, space *s) {
    long heads = p->heads, width = p->width, dim = heads * width;
    float *d_asked = take(s, w->wide), *d_seen = take(s, w->wide), *turned = take(s, w->wide), *inner = take(s, heads);
    const float *d_mean = p->d_mean + w->batch * dim, *mean = p->mean + w->batch * dim, *normaliser = p->normaliser + w->batch * heads;
    for (long head = 0; head < heads; head++) {
        inner[head] = 0;
        for (long i = head * width; i < (head + 1) * width; i++) inner[head] += d_mean[i] * mean[i];
    }
    for (long at = w->start; at < w->stop; at++) {
        long live = !p->live || p->live[w->batch * p->length + at];
        memset(d_asked, 0, w->wide * 4), memset(d_seen, 0, w->wide * 4);
        if (p->d_output.at) gather(p, &p->d_output, w->batch, at, d_seen);
        if (live) {
            look(p, w, at);
            for (long head = 0; head < heads; head++) {
                float weight = exp2f(p->logits[(w->batch * p->length + at) * heads + head] - normaliser[head]), slope = -inner[head];
                for (long i = head * width; i < (head + 1) * width; i++) slope += w->seen[i] * d_mean[i];
                slope *= weight;
                add_scaled(d_seen + head * width, d_mean + head * width, weight, width);
                add_scaled(d_asked, w->weights + head * w->wide, slope, w->wide);
                add_scaled(d_weights + head * w->wide, w->asked, slope * p->scale, w->wide);
            }
        }
        if (w->turns) {
            const float *by = w->turns + at * width;
            turn_heads(p, d_seen, by, -1, turned);
            for (long i = 0; i < dim; i++) turned[i] += d_asked[i];
            if (p->late) turn_heads(p, turned, by, -1, d_seen);
            else copy(d_seen, turned, dim);
        } else
            for (long i = 0; i < dim; i++) d_seen[i] += d_asked[i];
        scatter(p, d_seen, &p->d_queries, w->batch, at);
    }
}

void pool_backward(const pool *p) {
    long heads = p->heads, dim = heads * p->width, wide = WIDE(dim), each = heads * (wide + 2);
#pragma omp parallel num_threads(p->threads)
    {
#pragma omp for schedule(dynamic)
        for (long task = 0; task < p->batch * p->shares; task++) {
            space s = space_of((heads + 5) * wide + heads + 128);
            part w = part_of(p, task, &s);
            float *own = p->sums + task * each;
            memset(own, 0, each * 4);
            backward_part(p, &w, own, &s);
            free(s.start);
        }
        for (long batch = 0; batch < p->batch; batch++)
            add_shares(p->shares, heads, dim, p->sums + batch * p->shares * each, wide, each, p->d_weights + batch * heads * dim);
    }
}
