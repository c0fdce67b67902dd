// One new token of causal FAVOR+ for each run: the state is read once and written once, elsewhere.
#include "favor.h"

// `projection` is as it was drawn; `d_total`, `d_weight` and `marks` take the state after.
static void step(const favor *f, long index, space *s) {
    long batch = index / f->heads, head = index % f->heads, width = f->width, features = f->features;
    const float *q = row_of(&f->queries, batch, head, 0), *k = row_of(&f->keys, batch, head, 0), *v = row_of(&f->values, batch, head, 0);
    long live = !f->live || f->live[batch * f->live_step];
    float scale = LOG2E / sqrtf(sqrtf(width)), square = 0;
    float *both = take(s, width * LANES), *exponents = take(s, features * LANES); // the query in lane 0, the key in lane 1
    float *asked = take(s, PADDED(features)), *kept = take(s, PADDED(features)), *out = row_of(&f->output, batch, head, 0);
    for (long i = 0; i < width; i++) {
        store(both + i * LANES, (vec){q[i] * scale, live ? k[i] * scale : 0});
        square += live ? k[i] * k[i] : 0;
    }
    product(features, LANES, width, f->projection, width, both, LANES, exponents, LANES, 0);
    float top = -INFINITY, height = -INFINITY, half = square * 0.5f / sqrtf(width), mark = f->maximum[index];
    for (long m = 0; m < features; m++) {
        asked[m] = exponents[m * LANES], kept[m] = exponents[m * LANES + 1];
        top = asked[m] > top ? asked[m] : top;
        height = kept[m] > height ? kept[m] : height;
    }
    for (long m = features; m < PADDED(features); m++) asked[m] = kept[m] = -INFINITY;
    float most = live && height / LOG2E - half > mark ? height / LOG2E - half : mark, shrink = expf(mark - most);
    for (long m = 0; m < features; m += LANES) {
        store(asked + m, exp2_of(load(asked + m) - top));
        store(kept + m, live ? exp2_of(load(kept + m) - (half + most) * LOG2E) : (vec){0});
    }
    const float *total = f->total + index * features * f->value_width, *weight = f->weight + index * features;
    float *total_after = f->d_total + index * features * f->value_width, *weight_after = f->d_weight + index * features, below = 0;
    for (long i = 0; i < f->value_width; i++) out[i] = 0;
    for (long m = 0; m < features; m++, total += f->value_width, total_after += f->value_width) {
        long i = 0;
        for (; i + LANES <= f->value_width; i += LANES) {
            vec sum = load(total + i) * shrink;
            if (live) sum += load(v + i) * kept[m];
            store(total_after + i, sum);
            store(out + i, load(out + i) + sum * asked[m]);
        }
        for (; i < f->value_width; i++) {
            total_after[i] = total[i] * shrink + (live ? v[i] * kept[m] : 0);
            out[i] += total_after[i] * asked[m];
        }
        weight_after[m] = weight[m] * shrink + kept[m];
        below += weight_after[m] * asked[m];
    }
    for (long i = 0; i < f->value_width; i++) out[i] = fabsf(below) <= f->nothing ? 0 : out[i] / below;
    f->marks[index] = most;
}

void favor_step(const favor *f) {
#pragma omp parallel for schedule(static) num_threads(f->threads)
    for (long index = 0; index < f->run_count * f->heads; index++) {
        space s = space_of((f->width + f->features) * LANES + 2 * PADDED(f->features) + 64);
        step(f, index, &s);
        free(s.start);
    }
}
