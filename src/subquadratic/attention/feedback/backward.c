// The loop backward of a feedback recurrence: the gradients of what goes into each product, token by token in reverse; weights' gradients are
// products over all tokens, made elsewhere from what this leaves. With the softmax weights p that were kept, of a token and layer
//
//     ds = p * (values da - p . values da),   dq = ds keys,   d_keys += ds q / sqrt(K),   d_values += p da
//
// where da is the gradient of what attention gives; dq lacks the factor 1 / sqrt(K), which the map that it goes back through has in it.
//
// Loop order: tokens from the last, of each first its memory, then layers from the last, then what it gives to the memories that it saw, of
// all layers at once, so that the line's gradient is gone through once a token. All threads together, as forward.
// Caches: as forward: a thread's panels, and its rows and heads of the line and of its gradient, are the same in each step.
#include "feedback.h"

typedef struct {
    float *scores, *slopes; // (S,) of a thread; (L, B H, S) of all
    long begin, end;
    float *hidden;          // (L + 1, B, D) gradients of the token's
} moment;

static void attend_back(const feedback *f, const moment *m, long token, long index) {
    long rows = f->batch * f->heads, seen = m->end - m->begin;
    for (long row = thread(); row < rows; row += threads()) {
        long at = ((token * f->depth + index) * rows + row) * f->width;
        const float *keys = places_of(f, f->line, 0, index, row) + m->begin * f->width;
        const float *values = places_of(f, f->line, 1, index, row) + m->begin * f->width;
        const float *weights = f->weights + f->at[token] + (index * rows + row) * seen;
        float *slopes = m->slopes + (index * rows + row) * seen, inner = 0;
        weighted_rows(seen, f->width, values, f->width, f->d_attended + at, m->scores, 1, 0);
        for (long j = 0; j < seen; j++) inner += weights[j] * m->scores[j];
        for (long j = 0; j < seen; j++) slopes[j] = weights[j] * (m->scores[j] - inner);
        product(1, f->width, seen, slopes, seen, keys, f->width, f->d_queries + at, f->width, 0);
    }
}

// Gradients of the memories that a token saw, and of the bias: of all layers at once, so that the line is gone through once.
static void memories_back(const feedback *f, const moment *m, long token) {
    long rows = f->batch * f->heads, seen = m->end - m->begin, each = f->groups == 1 ? f->depth : 1;
    long skip = f->cut[token] > m->begin ? f->cut[token] - m->begin : 0, kept = seen - skip;
    float *asked = m->scores; // (L, K), queries as they were asked, scaled
    for (long row = thread(); row < rows; row += threads()) {
        for (long index = 0; index < f->depth && kept > 0; index += each) {
            long at = ((token * f->depth + index) * rows + row) * f->width, step = rows * f->width;
            float *d_keys = places_of(f, f->d_line, 0, index, row) + (m->begin + skip) * f->width;
            float *d_values = places_of(f, f->d_line, 1, index, row) + (m->begin + skip) * f->width;
            const float *slopes = m->slopes + (index * rows + row) * seen + skip;
            const float *weights = f->weights + f->at[token] + (index * rows + row) * seen + skip;
            for (long l = 0; l < each; l++)
                for (long i = 0; i < f->width; i += LANES) store(asked + l * f->width + i, load(f->queries + at + l * step + i) / sqrtf(f->width));
            product_transposed(kept, f->width, each, slopes, rows * seen, asked, f->width, d_keys, f->width, 1);
            product_transposed(kept, f->width, each, weights, rows * seen, f->d_attended + at, step, d_values, f->width, 1);
        }
        for (long index = 0; f->d_bias && index < f->depth; index++)
            for (long j = 0; j < seen; j++)
                f->d_bias[row * f->window + f->window - seen + j] += m->slopes[(index * rows + row) * seen + j];
    }
}

static void layer_back(const feedback *f, const moment *m, long token, long index) {
    const layer *l = f->layers + index;
    long each = f->batch * f->dim, place = index * f->length + token, wide = f->heads * f->width;
    float *below = m->hidden + index * each, *above = below + each;
    float *d_expanded = f->d_expanded + place * f->batch * f->expanded, *d_inner = f->d_inner + place * each;
    float *d_middle = f->d_middle + place * each;
    panel_sums sums;
    for (panel_walk p = walk_panels(f, &l->contract, above, sums); next_panel(&p);)
        for (long r = p.top; r < p.bottom; r++)
            for (long o = p.first; o < p.last; o += LANES) {
                for (long half = 0; half < f->expanded; half += f->inner) { // what is there are the activation's slopes
                    float *slope = d_expanded + r * f->expanded + half + o;
                    store(slope, load(slope) * sum_at(&p, r, o));
                }
            }
#pragma omp barrier
    for (panel_walk p = walk_panels(f, &l->expand, d_expanded, sums); next_panel(&p);)
        for (long r = p.top; r < p.bottom; r++)
            for (long o = p.first; o < p.last; o += LANES) store(d_inner + r * f->dim + o, sum_at(&p, r, o));
#pragma omp barrier
    for (long r = thread(); r < f->batch; r += threads()) {
        float *to = d_middle + r * f->dim;
        norm_back(f, l->inner_weight, l->inner_bias, f->middle + place * each + r * f->dim, d_inner + r * f->dim, to);
        long nothing = token == 0 && f->hiding && f->empty && f->empty[r] >= m->end; // attention added nothing to this row
        for (long i = 0; i < f->dim; i += LANES) {
            vec slope = load(to + i) + load(above + r * f->dim + i);
            store(below + r * f->dim + i, load(below + r * f->dim + i) + slope);
            store(to + i, nothing ? (vec){0} : slope);
        }
    }
#pragma omp barrier
    if (m->end == m->begin) return;
    float *d_attended = f->d_attended + (token * f->depth + index) * f->batch * wide;
    for (panel_walk p = walk_panels(f, &l->output, d_middle, sums); next_panel(&p);)
        for (long r = p.top; r < p.bottom; r++)
            for (long o = p.first; o < p.last; o += LANES) store(d_attended + r * wide + o, sum_at(&p, r, o));
#pragma omp barrier
    attend_back(f, m, token, index);
#pragma omp barrier
    if (index == 0) return;
    float *d_normed = f->d_normed + place * each, *d_queries = f->d_queries + (token * f->depth + index) * f->batch * wide;
    for (panel_walk p = walk_panels(f, &l->query, d_queries, sums); next_panel(&p);)
        for (long r = p.top; r < p.bottom; r++)
            for (long o = p.first; o < p.last; o += LANES) store(d_normed + r * f->dim + o, sum_at(&p, r, o));
#pragma omp barrier
    for (long r = thread(); r < f->batch; r += threads()) {
        float *slope = m->scores, *to = below + r * f->dim;
        const float *x = f->hidden + (token * (f->depth + 1) + index) * each + r * f->dim;
        norm_back(f, l->norm_weight, l->norm_bias, x, d_normed + r * f->dim, slope);
        for (long i = 0; i < f->dim; i += LANES) store(to + i, load(to + i) + load(slope + i));
    }
#pragma omp barrier
}

// What a token's memory hands down, to the layers that it is made of.
static void memory_back(const feedback *f, const moment *m, long token) {
    long each = f->batch * f->dim, pair = f->heads * f->width, made = f->groups * 2 * pair;
    float *d_made = f->d_made + token * f->batch * made, *d_normed = f->d_memory + token * each, *d_merged = f->d_merged + token * each;
    panel_sums sums;
    for (long r = thread(); r < f->batch; r += threads())
        for (long o = 0; o < made; o += f->width)
            copy(d_made + r * made + o,
                 places_of(f, f->d_line, o / pair % 2, o / pair / 2, r * f->heads + o % pair / f->width) + m->end * f->width, f->width);
#pragma omp barrier
    for (panel_walk p = walk_panels(f, &f->key_value, d_made, sums); next_panel(&p);)
        for (long r = p.top; r < p.bottom; r++)
            for (long o = p.first; o < p.last; o += LANES) store(d_normed + r * f->dim + o, sum_at(&p, r, o));
#pragma omp barrier
    for (long r = thread(); r < f->batch; r += threads())
        norm_back(f, f->norm_weight, f->norm_bias, f->merged + token * each + r * f->dim, d_normed + r * f->dim, d_merged + r * f->dim);
#pragma omp barrier
}

static void backward(const feedback *f, float *shared, int *failed) {
    long each = f->batch * f->dim, rows = f->batch * f->heads;
    space s = space_of(f->window + f->places + f->dim + f->depth * f->width + 64, failed);
    moment m = {.scores = take(&s, f->window + f->places + f->dim + f->depth * f->width), .slopes = shared};
    for (long l = 0; l < f->depth; l++)
        pack(&f->layers[l].query), pack(&f->layers[l].output), pack(&f->layers[l].expand), pack(&f->layers[l].contract);
    pack(&f->key_value);
#pragma omp barrier
    for (long token = f->length - 1; !*failed && token >= 0; token--) {
        m.begin = f->begin[token], m.end = f->lead + token;
        m.hidden = f->d_hidden + token * (f->depth + 1) * each;
        if (token < f->made) memory_back(f, &m, token);
        for (long r = thread(); r < f->batch; r += threads())
            for (long l = 0; l <= f->depth; l++)
                for (long i = r * f->dim; i < (r + 1) * f->dim; i += LANES) {
                    float part = f->mixture ? f->mixture[l] : l == f->depth;
                    vec slope = token < f->made ? load(f->d_merged + token * each + i) * part : (vec){0};
                    if (f->d_y && l == f->depth) slope += load(f->d_y + token * each + i);
                    store(m.hidden + l * each + i, slope);
                }
#pragma omp barrier
        for (long index = f->depth - 1; index >= 0; index--) layer_back(f, &m, token, index);
        if (m.end > m.begin) memories_back(f, &m, token);
        else
            for (long row = thread(); row < rows; row += threads())
                for (long index = 0; index < f->depth; index++)
                    memset(f->d_queries + ((token * f->depth + index) * rows + row) * f->width, 0, f->width * 4);
#pragma omp barrier
    }
    free(s.start);
}

int feedback_backward(const feedback *f) {
    int failed = 0;
    space s = space_of(f->depth * f->batch * f->heads * f->window + 64, &failed);
#pragma omp parallel num_threads(f->threads)
    backward(f, s.start, &failed);
    free(s.start);
    return failed;
}
