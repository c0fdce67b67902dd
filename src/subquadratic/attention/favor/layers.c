// One new token through all layers of a causal Performer: of each layer
//
//     x = x + W_o favor(norm(x)),   x = x + feed_forward(norm(x))
//
// by the kernels for each part. In C, since calling them from Python takes as long as they do for one row.
// Caches: what lies between two parts, some numbers a row, stays in the first two; weights and states are gone through once.
#include "../../layers/norms/add_norm.h"
#include "few_rows.h"
#include "step.h"

enum { NORM, QUERY, KEY, VALUE, PROJECTION, OUTPUT, SECOND_NORM, EXPAND, CONTRACT, WEIGHTS };
enum { NORM_BIAS, QUERY_BIAS, KEY_BIAS, VALUE_BIAS, OUTPUT_BIAS, SECOND_NORM_BIAS, EXPAND_BIAS, CONTRACT_BIAS, BIASES };

typedef struct {
    const float *x, *turns;                       // (B, D); as step.h has them
    const void *const *weights;                   // (layers, WEIGHTS); maps are float32, or int8
    const float *const *scales, *const *biases;   // (layers, WEIGHTS), null: float32; (layers, BIASES), null: a map has none
    const float *const *before;                   // (layers, 3): total, weight and maximum of the state
    float *const *after;                          // likewise
    const int64_t *sizes;                         // (layers, 3): features, outputs of expand, inputs of contract
    const float *epsilons;                        // (layers, 2), of the norms
    float *stream, *scratch;                      // (B, D), x after all layers; what lies between two parts
    int64_t layers, batch, dim, heads, width, turns_step, threads; // D, K of a head
    float nothing; // see step.h
} layers;

int favor_layers_step(const layers *l) {
    long rows = l->batch, dim = l->dim, inside = l->heads * l->width, each = padded_to_16(rows * inside);
    float *stream = l->stream, *normed = l->scratch, *delta = normed + padded_to_16(rows * dim), *query = delta + padded_to_16(rows * dim);
    float *key = query + each, *value = key + each, *mixed = value + each, *stats = mixed + each, *inner = stats + padded_to_16(2 * rows);
    add_norm norm = {.x = l->x, .y = normed, .stats = stats, .rows = rows, .dim = dim, .threads = 1};
    for (long layer = 0; layer < l->layers; layer++) {
        const void *const *w = l->weights + layer * WEIGHTS;
        const float *const *s = l->scales + layer * WEIGHTS, *const *b = l->biases + layer * BIASES, *const *before = l->before + 3 * layer;
        float *const *after = l->after + 3 * layer;
        const int64_t *sizes = l->sizes + 3 * layer;
        norm.weight = w[NORM], norm.bias = b[NORM_BIAS], norm.epsilon = l->epsilons[2 * layer];
        few_rows maps = {
            normed, {w[QUERY], w[KEY], w[VALUE]}, {s[QUERY], s[KEY], s[VALUE]}, {b[QUERY_BIAS], b[KEY_BIAS], b[VALUE_BIAS]},
            {query, key, value}, {inside, inside, inside}, rows, dim, 3, l->threads,
        };
        token step = {
            query, key, value, l->turns, NULL, w[PROJECTION], before[0], before[1], before[2], mixed, after[0], after[1], after[2],
            rows, l->heads, l->width, l->width, sizes[0], l->turns_step, l->threads, l->nothing,
        };
        few_rows output = {mixed, {w[OUTPUT]}, {s[OUTPUT]}, {b[OUTPUT_BIAS]}, {delta}, {dim}, rows, inside, 1, l->threads};
        few_rows_forward forward = {
            normed, w[EXPAND], w[CONTRACT], s[EXPAND], b[EXPAND_BIAS], s[CONTRACT], b[CONTRACT_BIAS], delta, inner, rows, dim, sizes[2], dim,
            sizes[1] / sizes[2], l->threads,
        };
        int failed = add_norm_forward(&norm) || few_rows_maps(&maps) || favor_step(&step) || few_rows_maps(&output);
        norm.x = layer ? stream : l->x, norm.delta = delta, norm.sum = stream;
        norm.weight = w[SECOND_NORM], norm.bias = b[SECOND_NORM_BIAS], norm.epsilon = l->epsilons[2 * layer + 1];
        failed = failed || add_norm_forward(&norm) || feed_forward_few_rows(&forward);
        norm.x = stream;
        if (failed) return OUT_OF_MEMORY;
    }
    add_to(stream, delta, rows * dim);
    return 0;
}

const field_layout favor_layers_layout[] = {
    STRUCT(layers), FIELD(layers, x), FIELD(layers, turns), FIELD(layers, weights), FIELD(layers, scales), FIELD(layers, biases),
    FIELD(layers, before), FIELD(layers, after), FIELD(layers, sizes), FIELD(layers, epsilons), FIELD(layers, stream), FIELD(layers, scratch),
    FIELD(layers, layers), FIELD(layers, batch), FIELD(layers, dim), FIELD(layers, heads), FIELD(layers, width),
    FIELD(layers, turns_step), FIELD(layers, threads), FIELD(layers, nothing), END,
};
