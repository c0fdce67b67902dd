// A feedback recurrence: what both of its loops are given, and how they divide a step among threads.
//
// Every thread goes through all steps. A product of few rows is divided by the columns of its result, attention by rows and heads; a
// barrier stands before whatever needs another thread writes. B rows, D width, L layers, G key-value maps, H heads, K head width, F inner
// width, F' width of the expanding map, T places of the line.
#ifndef SUBQUADRATIC_FEEDBACK_H
#define SUBQUADRATIC_FEEDBACK_H

#include <omp.h>

#include "tensor.h"

#define PANEL (3 * LANES) // columns of a weight, seen as a right operand, that lie together over its whole depth
#define ROWS_AT_ONCE (LANES == 16 ? 8 : 4)

INLINE long thread(void) { return omp_get_thread_num(); }
INLINE long threads(void) { return omp_get_num_threads(); }
INLINE long panels_of(long columns) { return (columns + PANEL - 1) / PANEL; }

typedef struct {
    const float *at;            // element (o, i) of W at o * out + i * in
    int64_t out, in, outs, ins; // steps, and sizes O and I
    float *panels;              // storage for panels_of(O) of I * PANEL numbers
} weight; // of x -> x W^T

typedef struct {
    const float *norm_weight, *norm_bias, *inner_weight, *inner_bias; // no bias: a scale norm; no weight either: no norm
    const float *output_bias, *expand_bias, *contract_bias;
    weight query, output, expand, contract; // forward as they are, backward transposed
} layer;

typedef struct {
    int64_t batch, length, dim, depth, heads, width, groups, inner, expanded, places, lead, window, hiding, made, keep, threads;
    // window: columns of the bias, at least what a token sees; hiding: tokens that see what a row lacks
    float layer_epsilon, scale_epsilon, minus;
    const int64_t *begin;     // (N,) first place that a token sees; it ends at lead + token
    const int64_t *at;        // (N,) where a token's weights begin
    const int64_t *cut;       // (N,) place before which a token's gradients do not reach
    const int64_t *empty;     // (B,) how many of the first places each row lacks; null: none
    const float *mixture;     // (L + 1,); null: the last layer's output alone
    const float *norm_weight, *norm_bias, *bias; // of the memory; (H, M)
    weight key_value;
    const layer *layers;
    float *line;              // (2, G, B, H, T, K)
    float *hidden, *middle, *queries, *attended, *weights, *before, *active, *merged; // the trace; `before`: the activation
    const float *steps;       // (N, B, D)
    float *outputs;           // (N, B, D) where nothing is kept
    // Backward alone:
    const float *d_y;         // (N, B, D), or null
    float *d_hidden, *d_middle, *d_queries, *d_attended, *d_inner, *d_normed, *d_expanded, *d_merged, *d_memory, *d_made, *d_line, *d_bias;
} feedback;

// Weights as the loops read them, each thread some of the panels.
static void pack(const weight *w) {
    for (long panel = thread(); panel < panels_of(w->outs); panel += threads()) {
        float *to = w->panels + panel * w->ins * PANEL;
        for (long i = 0; i < w->ins; i++)
            for (long c = 0; c < PANEL; c++) {
                long o = panel * PANEL + c;
                to[i * PANEL + c] = o < w->outs ? w->at[o * w->out + i * w->in] : 0;
            }
    }
}

// x (rows, I) times one panel: out (rows, PANEL), rows at most ROWS_AT_ONCE.
static void panel_product(long rows, const weight *w, long panel, const float *x, float *out) {
    const float *right = w->panels + panel * w->ins * PANEL;
    left a = {x, w->ins, 1};
    switch (rows) {
    case 1: tile(1, 3, w->ins, a, right, PANEL, out, PANEL, 0); break;
    case 2: tile(2, 3, w->ins, a, right, PANEL, out, PANEL, 0); break;
    case 3: tile(3, 3, w->ins, a, right, PANEL, out, PANEL, 0); break;
    case 4: tile(4, 3, w->ins, a, right, PANEL, out, PANEL, 0); break;
#if LANES == 16
    case 5: tile(5, 3, w->ins, a, right, PANEL, out, PANEL, 0); break;
    case 6: tile(6, 3, w->ins, a, right, PANEL, out, PANEL, 0); break;
    case 7: tile(7, 3, w->ins, a, right, PANEL, out, PANEL, 0); break;
    default: tile(8, 3, w->ins, a, right, PANEL, out, PANEL, 0);
#endif
    }
}

typedef float panel_sums[ROWS_AT_ONCE * PANEL] __attribute__((aligned(64))); // (rows at hand, PANEL)

// The product x W^T, by all threads of a parallel region: each goes through its own panels, and through some rows at a time of each.
// next_panel multiplies and says whether anything was left. Its sums lie outside, so that the compiler keeps the rest of this in registers.
typedef struct {
    const weight *w;
    const float *x;   // (B, I)
    float *sums;      // panel_sums
    long rows, step, panels; // B; from one of this thread's panels to the next; how many there are
    long panel, top, bottom; // the one at hand, and its rows
    long first, last;        // its columns
} panel_walk;

INLINE panel_walk walk_panels(const feedback *f, const weight *w, const float *x, float *sums) {
    long step = threads(), rows = f->batch;
    return (panel_walk){w, x, sums, rows, step, rows ? panels_of(w->outs) : 0, thread() - step, 0, rows, 0, 0};
}

INLINE int next_panel(panel_walk *p) {
    p->top = p->bottom;
    if (p->top == p->rows) {
        p->panel += p->step, p->top = 0;
        if (p->panel >= p->panels) return 0;
        p->first = p->panel * PANEL, p->last = least(p->first + PANEL, p->w->outs);
    }
    p->bottom = least(p->top + ROWS_AT_ONCE, p->rows);
    panel_product(p->bottom - p->top, p->w, p->panel, p->x + p->top * p->w->ins, p->sums);
    return 1;
}

// Of row r the columns from o on.
INLINE vec sum_at(const panel_walk *p, long r, long o) { return load(p->sums + (r - p->top) * PANEL + o - p->first); }

// Mean, and one over the deviation, of a row.
INLINE void moments(const feedback *f, const float *x, float *mean, float *inverse) {
    vec sum = {0}, square = {0};
    for (long i = 0; i < f->dim; i += LANES) sum += load(x + i);
    *mean = sum_of(sum) / f->dim;
    for (long i = 0; i < f->dim; i += LANES) square += (load(x + i) - *mean) * (load(x + i) - *mean);
    *inverse = 1 / sqrtf(sum_of(square) / f->dim + f->layer_epsilon);
}

INLINE float length_of(const feedback *f, const float *x) {
    vec square = {0};
    for (long i = 0; i < f->dim; i += LANES) square += load(x + i) * load(x + i);
    return sqrtf(sum_of(square));
}

// All rows (B, D), normed; every thread does it for itself.
static void norm(const feedback *f, const float *weight, const float *bias, const float *x, float *out) {
    for (long r = 0; r < f->batch; r++, x += f->dim, out += f->dim) {
        float mean = 0, inverse = 1;
        if (!weight) {
            copy(out, x, f->dim);
        } else if (bias) {
            moments(f, x, &mean, &inverse);
            for (long i = 0; i < f->dim; i += LANES) store(out + i, (load(x + i) - mean) * inverse * load(weight + i) + load(bias + i));
        } else {
            float size = length_of(f, x), factor = weight[0] / (size > f->scale_epsilon ? size : f->scale_epsilon);
            for (long i = 0; i < f->dim; i += LANES) store(out + i, load(x + i) * factor);
        }
    }
}

// The gradient of a norm's input from that of its result, for one row (D,).
static void norm_back(const feedback *f, const float *weight, const float *bias, const float *x, const float *d, float *out) {
    if (!weight) {
        copy(out, d, f->dim);
    } else if (bias) {
        float mean, inverse;
        vec sum = {0}, along = {0};
        moments(f, x, &mean, &inverse);
        for (long i = 0; i < f->dim; i += LANES) {
            vec slope = load(d + i) * load(weight + i);
            sum += slope;
            along += slope * (load(x + i) - mean);
        }
        float level = sum_of(sum) / f->dim, tilt = sum_of(along) * inverse * inverse / f->dim;
        for (long i = 0; i < f->dim; i += LANES)
            store(out + i, (load(d + i) * load(weight + i) - level - (load(x + i) - mean) * tilt) * inverse);
    } else {
        float size = length_of(f, x), factor = weight[0] / (size > f->scale_epsilon ? size : f->scale_epsilon);
        vec along = {0};
        for (long i = 0; i < f->dim; i += LANES) along += load(d + i) * load(x + i);
        float pull = size > f->scale_epsilon ? factor / (size * size) * sum_of(along) : 0;
        for (long i = 0; i < f->dim; i += LANES) store(out + i, load(d + i) * factor - load(x + i) * pull);
    }
}

// Keys (part 0) or values (1) of a layer's map in a row and head, (T, K), in the line or its gradient.
INLINE float *places_of(const feedback *f, float *line, long part, long layer, long row) {
    return line + ((part * f->groups + layer % f->groups) * f->batch * f->heads + row) * f->places * f->width;
}

#endif
