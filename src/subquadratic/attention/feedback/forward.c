// The loop forward of a feedback recurrence (arXiv 2002.09402): token after token through all layers, each reading the memories before it.
// Of token t and each layer, with the keys and values (S, K) of the S memories that it sees in each head:
//
//     z = x + softmax(norm(x) Q^T keys^T / sqrt(K) + bias) values O^T,   x <- z + gelu(norm(z) U^T) W^T, or gated, as in feed_forward.c
//
// and the memory of t is norm(sum_l mixture_l x_l), of which its keys and values are made.
//
// Loop order: tokens, then layers, all threads together: products divided by panels of the weight, attention by rows and heads.
// Caches: a step reads every weight, once for every ROWS_AT_ONCE rows. A thread's panels and its rows and heads of the line are the same in
// each step, so that they stay in its core's caches as far as these reach; activations (B, D) are handed from core to core.
#include "feedback.h"
#include "gelu.h"

typedef struct {
    float *normed, *scores; // of a thread: (B, D); (S,)
    long slot, begin, end;  // where the token's trace lies; the places that it sees
    const float *h;         // (B, D)
} moment;

static void attend(const feedback *f, const moment *m, long token, long index) {
    long rows = f->batch * f->heads, seen = m->end - m->begin;
    for (long row = thread(); row < rows; row += threads()) {
        const float *q = f->queries + ((m->slot * f->depth + index) * rows + row) * f->width;
        const float *keys = places_of(f, f->line, 0, index, row) + m->begin * f->width;
        const float *values = places_of(f, f->line, 1, index, row) + m->begin * f->width;
        float *weights = f->weights + f->at[token] + (index * rows + row) * seen, most = -INFINITY, sum = 0, scale = 1 / sqrtf(f->width);
        long lacks = f->empty && token < f->hiding ? f->empty[row / f->heads] - m->begin : 0;
        weighted_rows(seen, f->width, keys, f->width, q, m->scores, 1, 0);
        for (long j = 0; j < seen; j++) {
            float score = m->scores[j] * scale;
            if (f->bias) score += f->bias[row % f->heads * f->window + f->window - seen + j];
            m->scores[j] = j < lacks ? f->minus : score;
            most = m->scores[j] > most ? m->scores[j] : most;
        }
        vec total = {0};
        for (long j = seen; j < padded(seen); j++) m->scores[j] = -INFINITY;
        for (long j = 0; j < seen; j += LANES) {
            vec part = exp_of(load(m->scores + j) - most);
            store(m->scores + j, part);
            total += part;
        }
        sum = 1 / sum_of(total);
        for (long j = 0; j < seen; j++) weights[j] = m->scores[j] * sum;
        float *out = f->attended + ((m->slot * f->depth + index) * rows + row) * f->width;
        product(1, f->width, seen, weights, seen, values, f->width, out, f->width, 0);
    }
}

static void layer_forward(const feedback *f, moment *m, long token, long index) {
    const layer *l = f->layers + index;
    long place = index * (f->keep ? f->length : 1) + m->slot, wide = f->heads * f->width;
    float *middle = f->middle + place * f->batch * f->dim, *expanded = f->before + place * f->batch * f->expanded;
    float *active = f->active + place * f->batch * f->inner;
    panel_sums sums;
    float *after = f->hidden + (m->slot * (f->depth + 1) + index + 1) * f->batch * f->dim;
    if (m->end > m->begin) {
        float *queries = f->queries + (m->slot * f->depth + index) * f->batch * wide;
        const float *attended = f->attended + (m->slot * f->depth + index) * f->batch * wide;
        norm(f, l->norm_weight, l->norm_bias, m->h, m->normed);
        for (panel_walk p = walk_panels(f, &l->query, m->normed, sums); next_panel(&p);)
            for (long r = p.top; r < p.bottom; r++)
                for (long o = p.first; o < p.last; o += LANES) store(queries + r * wide + o, sum_at(&p, r, o));
#pragma omp barrier
        attend(f, m, token, index);
#pragma omp barrier
        for (panel_walk p = walk_panels(f, &l->output, attended, sums); next_panel(&p);)
            for (long r = p.top; r < p.bottom; r++)
                for (long o = p.first; o < p.last; o += LANES) {
                    vec before = load(m->h + r * f->dim + o);
                    long nothing = f->empty && token < f->hiding && f->empty[r] >= m->end;
                    store(middle + r * f->dim + o, nothing ? before : before + sum_at(&p, r, o) + load(l->output_bias + o));
                }
    } else if (thread() == 0) {
        copy(middle, m->h, f->batch * f->dim);
    }
#pragma omp barrier
    norm(f, l->inner_weight, l->inner_bias, middle, m->normed);
    for (panel_walk p = walk_panels(f, &l->expand, m->normed, sums); next_panel(&p);)
        for (long r = p.top; r < p.bottom; r++)
            for (long o = p.first; o < p.last; o += LANES) {
                vec x = sum_at(&p, r, o) + load(l->expand_bias + o);
                store(expanded + r * f->expanded + o, x);
                if (f->expanded == f->inner) store(active + r * f->inner + o, gelu_of(x));
            }
#pragma omp barrier
    if (f->expanded > f->inner) {
        for (long r = thread(); r < f->batch; r += threads())
            for (long i = 0; i < f->inner; i += LANES) {
                const float *gate = expanded + r * f->expanded + i;
                store(active + r * f->inner + i, gelu_of(load(gate)) * load(gate + f->inner));
            }
#pragma omp barrier
    }
    for (panel_walk p = walk_panels(f, &l->contract, active, sums); next_panel(&p);)
        for (long r = p.top; r < p.bottom; r++)
            for (long o = p.first; o < p.last; o += LANES)
                store(after + r * f->dim + o, load(middle + r * f->dim + o) + sum_at(&p, r, o) + load(l->contract_bias + o));
#pragma omp barrier
    m->h = after;
}

// The memory that a token leaves, at its place of the line.
static void remember(const feedback *f, const moment *m, float *merged) {
    long each = f->batch * f->dim, pair = f->heads * f->width;
    const float *hidden = f->hidden + m->slot * (f->depth + 1) * each;
    panel_sums sums;
    for (long i = 0; i < each; i += LANES) {
        vec sum = f->mixture ? (vec){0} : load(hidden + f->depth * each + i);
        for (long l = 0; f->mixture && l <= f->depth; l++) sum += load(hidden + l * each + i) * f->mixture[l];
        store(merged + i, sum);
    }
    if (thread() == 0) copy(f->merged + m->slot * each, merged, each);
    norm(f, f->norm_weight, f->norm_bias, merged, m->normed);
    for (panel_walk p = walk_panels(f, &f->key_value, m->normed, sums); next_panel(&p);)
        for (long r = p.top; r < p.bottom; r++)
            for (long o = p.first; o < p.last; o += LANES) {
                long map = o / pair, head = o % pair / f->width;
                store(places_of(f, f->line, map % 2, map / 2, r * f->heads + head) + m->end * f->width + o % f->width, sum_at(&p, r, o));
            }
#pragma omp barrier
}

static void forward(const feedback *f, int *failed) {
    long each = f->batch * f->dim;
    space s = space_of(2 * each + f->window + f->places + 64, failed);
    moment m = {.normed = take(&s, each), .scores = take(&s, f->window + f->places + LANES)};
    float *merged = take(&s, each);
    for (long l = 0; l < f->depth; l++)
        pack(&f->layers[l].query), pack(&f->layers[l].output), pack(&f->layers[l].expand), pack(&f->layers[l].contract);
    pack(&f->key_value);
#pragma omp barrier
    for (long token = 0; !*failed && token < f->length; token++) {
        m.slot = f->keep ? token : 0, m.begin = f->begin[token], m.end = f->lead + token;
        float *first = f->hidden + m.slot * (f->depth + 1) * each;
        if (thread() == 0) copy(first, f->steps + token * each, each);
#pragma omp barrier
        m.h = first;
        for (long index = 0; index < f->depth; index++) layer_forward(f, &m, token, index);
        if (f->outputs && thread() == 0) copy(f->outputs + token * each, m.h, each);
        if (token < f->made) remember(f, &m, merged);
    }
    free(s.start);
}

int feedback_forward(const feedback *f) {
    int failed = 0;
#pragma omp parallel num_threads(f->threads)
    forward(f, &failed);
    return failed;
}

const field_layout feedback_weight_layout[] = {
    STRUCT(weight), FIELD(weight, at), FIELD(weight, out), FIELD(weight, in), FIELD(weight, outs), FIELD(weight, ins),
    FIELD(weight, panels), END,
};

const field_layout feedback_layer_layout[] = {
    STRUCT(layer), FIELD(layer, norm_weight), FIELD(layer, norm_bias), FIELD(layer, inner_weight), FIELD(layer, inner_bias),
    FIELD(layer, output_bias), FIELD(layer, expand_bias), FIELD(layer, contract_bias), FIELD(layer, query), FIELD(layer, output),
    FIELD(layer, expand), FIELD(layer, contract), END,
};

const field_layout feedback_layout[] = {
    STRUCT(feedback), FIELD(feedback, batch), FIELD(feedback, length), FIELD(feedback, dim), FIELD(feedback, depth),
    FIELD(feedback, heads), FIELD(feedback, width), FIELD(feedback, groups), FIELD(feedback, inner), FIELD(feedback, expanded),
    FIELD(feedback, places), FIELD(feedback, lead), FIELD(feedback, window), FIELD(feedback, hiding), FIELD(feedback, made),
    FIELD(feedback, keep), FIELD(feedback, threads), FIELD(feedback, layer_epsilon), FIELD(feedback, scale_epsilon),
    FIELD(feedback, minus), FIELD(feedback, begin), FIELD(feedback, at), FIELD(feedback, cut), FIELD(feedback, empty),
    FIELD(feedback, mixture), FIELD(feedback, norm_weight), FIELD(feedback, norm_bias), FIELD(feedback, bias), FIELD(feedback, key_value),
    FIELD(feedback, layers), FIELD(feedback, line), FIELD(feedback, hidden), FIELD(feedback, middle), FIELD(feedback, queries),
    FIELD(feedback, attended), FIELD(feedback, weights), FIELD(feedback, before), FIELD(feedback, active), FIELD(feedback, merged),
    FIELD(feedback, steps), FIELD(feedback, outputs), FIELD(feedback, d_y), FIELD(feedback, d_hidden), FIELD(feedback, d_middle),
    FIELD(feedback, d_queries), FIELD(feedback, d_attended), FIELD(feedback, d_inner), FIELD(feedback, d_normed),
    FIELD(feedback, d_expanded), FIELD(feedback, d_merged), FIELD(feedback, d_memory), FIELD(feedback, d_made), FIELD(feedback, d_line),
    FIELD(feedback, d_bias), END,
};
