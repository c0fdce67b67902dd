// One new token of causal FAVOR+ (arXiv 2009.14794, appendix B.1) for each row of the batch. With a projection w (M, K), here not scaled,
// h = max(w k) / K^(1/4) - |k|^2 / (2 sqrt(K)) and m' = max(m, h):
//
//     S' = exp(m - m') S + k' v^T,   z' = exp(m - m') z + k',   o = q' S' / q' z'
//     k' = exp(w k / K^(1/4) - |k|^2 / (2 sqrt(K)) - m'),   q' = exp(w q / K^(1/4) - max of these)
//
// Loop order: groups of rows and heads, divided among threads. Of a group the exponents, which one product makes: the projection is the same
// for all heads, and each has a lane of the vector for its query and one for its key. Then of each row and head the features, and of a feature
// the channels of values, so that S (M, V) is read, rescaled, added to, written and multiplied by the query in one go.
// Caches: S is read once and written once, elsewhere, past the caches if that is more than they hold; everything else of a group (q', k':
// LANES M numbers) stays in the first two.
#include "favor.h"
#include "step.h"

#define TOGETHER (LANES / 2)
#define AHEAD 64 // features whose row of S is asked for before it is needed
#define LARGE (1 << 20) // numbers of all states, from which they are written past the caches: those of some layers fill the last one

static void turned(const float *x, const float *by, long width, float *to) {
    if (by) times_complex(width / 2, x, by, 1, to);
    else copy(to, x, width);
}

// S' and the numerators of o, of some channels from `at` on; a (M, LANES): q' in its first column, k' in the column TOGETHER.
INLINE void channels(const token *t, int vecs, int past, long index, long at, const float *a, const float *v, float shrink) {
    long first = index * t->features * t->value_width + at;
    const float *total = t->total + first;
    float *after = t->total_after + first, *out = t->output + index * t->value_width + at;
    vec sums[4], new[4];
#pragma GCC unroll 4
    for (int i = 0; i < vecs; i++) sums[i] = (vec){0}, new[i] = load(v + at + i * LANES);
    for (long m = 0; m < t->features; m++, a += LANES, total += t->value_width, after += t->value_width) {
#pragma GCC unroll 4
        for (int i = 0; i < vecs; i++) {
            __builtin_prefetch(total + AHEAD * t->value_width + i * LANES);
            vec sum = load(total + i * LANES) * shrink + new[i] * a[TOGETHER];
            if (past) store_past(after + i * LANES, sum);
            else store(after + i * LANES, sum);
            sums[i] += sum * a[0];
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < vecs; i++) store(out + i * LANES, sums[i]);
}

static void update(const token *t, int past, long index, const float *a, const float *v, float shrink) {
    long values = t->value_width, features = t->features, at = 0;
    float *out = t->output + index * values, below = 0;
    if (past)
        for (; at + 4 * LANES <= values; at += 4 * LANES) channels(t, 4, 1, index, at, a, v, shrink);
    for (; at + 4 * LANES <= values; at += 4 * LANES) channels(t, 4, 0, index, at, a, v, shrink);
    for (; at + LANES <= values; at += LANES) channels(t, 1, 0, index, at, a, v, shrink);
    for (long i = at; i < values; i++) out[i] = 0;
    for (long m = 0; m < features; m++) {
        long row = index * features + m;
        for (long i = at; i < values; i++) {
            float sum = t->total[row * values + i] * shrink + v[i] * a[m * LANES + TOGETHER];
            t->total_after[row * values + i] = sum;
            out[i] += sum * a[m * LANES];
        }
        t->weight_after[row] = t->weight[row] * shrink + a[m * LANES + TOGETHER];
        below += t->weight_after[row] * a[m * LANES];
    }
    for (long i = 0; i < values; i++) out[i] = fabsf(below) <= t->nothing ? 0 : out[i] / below;
}

static void step(const token *t, long first, long count, int past, space s) {
    long width = t->width, features = t->features, values = t->value_width;
    float *turn = take(&s, width), *both = take_zeros(&s, width * LANES), *a = take(&s, features * LANES);
    float *nothing = take_zeros(&s, values), root = sqrtf(width), scale = LOG2E / sqrtf(root);
    vec squares[4] = {{0}, {0}, {0}, {0}}, top, off = {0}; // see half_squares
    long live[TOGETHER];
    for (long j = 0; j < count; j++) {
        long row = (first + j) / t->heads;
        const float *by = t->turns ? t->turns + row * t->turns_step : NULL;
        live[j] = !t->live || t->live[row];
        turned(t->queries + (first + j) * width, by, width, turn);
        for (long i = 0; i < width; i++) both[i * LANES + j] = turn[i];
        turned(t->keys + (first + j) * width, by, width, turn);
        for (long i = 0; live[j] && i < width; i++) both[i * LANES + TOGETHER + j] = turn[i];
    }
    for (long i = 0; i < width; i++) {
        vec x = load(both + i * LANES);
        squares[i % 4] += x * x;
        store(both + i * LANES, x * scale);
    }
    product(features, LANES, width, t->projection, width, both, LANES, a, LANES, 0);
    squares[0] = ((squares[0] + squares[1]) + (squares[2] + squares[3])) * (0.5f / root);
    top = load(a);
    for (long m = 1; m < features; m++) top = larger(load(a + m * LANES), top);
    for (long j = 0; j < count; j++) {
        float height = top[TOGETHER + j] / LOG2E - squares[0][TOGETHER + j], mark = t->maximum[first + j];
        float most = live[j] && height > mark ? height : mark;
        t->maximum_after[first + j] = most;
        off[j] = top[j];
        off[TOGETHER + j] = live[j] ? (squares[0][TOGETHER + j] + most) * LOG2E : INFINITY; // of which nothing is left
    }
    for (long m = 0; m < features; m++) store(a + m * LANES, exp2_of(load(a + m * LANES) - off));
    for (long j = 0; j < count; j++) {
        float shrink = expf(t->maximum[first + j] - t->maximum_after[first + j]);
        update(t, past, first + j, a + j, live[j] ? t->values + (first + j) * values : nothing, shrink);
    }
}

int favor_step(const token *t) {
    int failed = 0;
    long all = t->batch * t->heads, group = all ? least(TOGETHER, (all + t->threads - 1) / t->threads) : 1;
    long numbers = all * t->features * t->value_width;
    int past = numbers >= LARGE && t->value_width % 16 == 0 && (uintptr_t)t->total_after % 64 == 0;
#pragma omp parallel for schedule(static) num_threads(t->threads)
    for (long first = 0; first < all; first += group) {
        space s = space_of((t->width + t->features) * LANES + t->width + t->value_width + 128, &failed);
        if (!s.start) continue;
        step(t, first, least(group, all - first), past, s);
        free(s.start);
        if (past) stored_past();
    }
    return failed;
}

const field_layout favor_step_layout[] = {
    STRUCT(token), FIELD(token, queries), FIELD(token, keys), FIELD(token, values), FIELD(token, turns), FIELD(token, live),
    FIELD(token, projection), FIELD(token, total), FIELD(token, weight), FIELD(token, maximum), FIELD(token, output),
    FIELD(token, total_after), FIELD(token, weight_after), FIELD(token, maximum_after), FIELD(token, batch), FIELD(token, heads),
    FIELD(token, width), FIELD(token, value_width), FIELD(token, features), FIELD(token, turns_step), FIELD(token, threads),
    FIELD(token, nothing), END,
};
