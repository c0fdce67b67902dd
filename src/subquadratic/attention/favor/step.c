// One new token of causal FAVOR+ (arXiv 2009.14794, appendix B.1) for each row of the batch. With a projection w (M, K), here not scaled,
// h = max(w k) / K^(1/4) - |k|^2 / (2 sqrt(K)) and m' = max(m, h):
//
//     S' = exp(m - m') S + k' v^T,   z' = exp(m - m') z + k',   o = q' S' / q' z'
//     k' = exp(w k / K^(1/4) - |k|^2 / (2 sqrt(K)) - m'),   q' = exp(w q / K^(1/4) - max of these)
//
// Loop order: rows and heads, divided among threads; of each the features, and of a feature the channels of values, so that S (M, V) is read,
// rescaled, added to, written and multiplied by the query in one go.
// Caches: S is read once and written once, elsewhere; everything else of a head (q', k', v, o, and the exponents of both in lanes of their
// own, LANES M numbers) stays in the first cache. The projection is the same for all heads.
#include "favor.h"

typedef struct {
    const float *queries, *keys, *values; // (B, H, K), (B, H, K), (B, H, V)
    const float *turns;                   // cosines and sines by which queries and keys are turned first, (B or 1, K); null: they are not
    const uint8_t *live;                  // (B,), 1 = a real token; null: all are
    const float *projection;              // (M, K), as it was drawn
    const float *total, *weight, *maximum; // the state before: (B, H, M, V), (B, H, M), (B, H)
    float *output, *total_after, *weight_after, *maximum_after; // (B, H, V); the state after
    int64_t batch, heads, width, value_width, features, turns_step, threads;
    float nothing; // a normaliser below this has no key
} token;

static void turned(const float *x, const float *by, long width, float *to) {
    if (by) times_complex(width / 2, x, by, 1, to);
    else copy(to, x, width);
}

static void step(const token *t, long index, space *s) {
    long row = index / t->heads, width = t->width, features = t->features, values = t->value_width;
    long live = !t->live || t->live[row];
    float scale = LOG2E / sqrtf(sqrtf(width)), squares[4] = {0}; // see half_squares
    float *q = take(s, width), *k = take(s, width), *both = take(s, width * LANES), *exponents = take(s, features * LANES);
    float *asked = take(s, padded(features)), *kept = take(s, padded(features)), *out = t->output + index * values;
    const float *v = t->values + index * values, *by = t->turns ? t->turns + row * t->turns_step : NULL;
    turned(t->queries + index * width, by, width, q);
    turned(t->keys + index * width, by, width, k);
    for (long i = 0; i < width; i++) { // the query in lane 0, the key in lane 1
        store(both + i * LANES, (vec){q[i] * scale, live ? k[i] * scale : 0});
        squares[i % 4] += live ? k[i] * k[i] : 0;
    }
    product(features, LANES, width, t->projection, width, both, LANES, exponents, LANES, 0);
    float square = (squares[0] + squares[1]) + (squares[2] + squares[3]);
    float top = -INFINITY, height = -INFINITY, half = square * 0.5f / sqrtf(width), mark = t->maximum[index];
    for (long m = 0; m < features; m++) {
        asked[m] = exponents[m * LANES], kept[m] = exponents[m * LANES + 1];
        top = asked[m] > top ? asked[m] : top;
        height = kept[m] > height ? kept[m] : height;
    }
    for (long m = features; m < padded(features); m++) asked[m] = kept[m] = -INFINITY;
    float most = live && height / LOG2E - half > mark ? height / LOG2E - half : mark, shrink = expf(mark - most);
    for (long m = 0; m < features; m += LANES) {
        store(asked + m, exp2_of(load(asked + m) - top));
        store(kept + m, live ? exp2_of(load(kept + m) - (half + most) * LOG2E) : (vec){0});
    }
    const float *total = t->total + index * features * values, *weight = t->weight + index * features;
    float *total_after = t->total_after + index * features * values, *weight_after = t->weight_after + index * features, below = 0;
    for (long i = 0; i < values; i++) out[i] = 0;
    for (long m = 0; m < features; m++, total += values, total_after += values) {
        long i = 0;
        for (; i + LANES <= values; i += LANES) {
            vec sum = load(total + i) * shrink;
            if (live) sum += load(v + i) * kept[m];
            store(total_after + i, sum);
            store(out + i, load(out + i) + sum * asked[m]);
        }
        for (; i < values; i++) {
            total_after[i] = total[i] * shrink + (live ? v[i] * kept[m] : 0);
            out[i] += total_after[i] * asked[m];
        }
        weight_after[m] = weight[m] * shrink + kept[m];
        below += weight_after[m] * asked[m];
    }
    for (long i = 0; i < values; i++) out[i] = fabsf(below) <= t->nothing ? 0 : out[i] / below;
    t->maximum_after[index] = most;
}

int favor_step(const token *t) {
    int failed = 0;
#pragma omp parallel for schedule(static) num_threads(t->threads)
    for (long index = 0; index < t->batch * t->heads; index++) {
        space s = space_of((t->width + t->features) * LANES + 2 * padded(t->features) + 2 * t->width + 128, &failed);
        if (!s.start) continue;
        step(t, index, &s);
        free(s.start);
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
