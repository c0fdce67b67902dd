// Linear maps of many rows, y_j = sum_i x_i W_ij^T + b_j, and the sums over rows that their weights' gradients are, dW_ij = dy_j^T x_i and
// db_j, where the processor has a matrix unit. Without one PyTorch's matrix library is as fast.
//
// Loop order of the maps: threads pack the weights together, then each takes HIGH rows at a time and goes through the inputs, DEEP of an
// input's channels at a time, and for these through all outputs. Of the sums: each thread takes shares of the rows and goes through them
// DEEP_OF_SUM at a time; of these, through the outputs, HIGH channels at a time, and for those through all inputs.
// Caches: the left operand at hand (HIGH by DEEP, 384 KB; of the sums HIGH by DEEP_OF_SUM, 96 KB) and, of the sums, the right ones
// (DEEP_OF_SUM by all D, 768 bytes a channel) stay in the second cache. The maps' weights are read once for every HIGH rows, from the last
// cache or memory; the rows that come next are asked for meanwhile.
//
// T rows, D width in, F width out.
#include "matrices.h"

int has_matrix_unit(void) {
#ifdef MATRIX_UNIT
    return 1;
#else
    return 0;
#endif
}

#define MAPS 4 // that share an input or a sum, at most

// From inputs to outputs, or the sums of outer products of outputs' gradients and inputs: of the input i and the output j the weight or sum
// is the one at i * outputs + j.
typedef struct {
    const float *x[MAPS], *weight[MAPS * MAPS], *bias[MAPS], *plus; // (T, D); (F, D), or (D, F) if turned; (F,), null: none; (T, F), likewise
    const float *other[MAPS];                                       // (T, F)
    float *y[MAPS * MAPS], *row_sum[MAPS];                          // outputs (T, F); or sums (F, D), and other's rows added up (F,)
    float *packed, *sums;                                           // right_numbers(F, D) each; (shares, F D' each + F' each), D', F' padded to 16
    int64_t dim[MAPS], x_step[MAPS], out[MAPS], other_step[MAPS], weight_step[MAPS * MAPS], turned[MAPS * MAPS], plus_step;
    int64_t inputs, outputs, rows, shares, threads;
} maps;

const field_layout linear_layout[] = {
    STRUCT(maps), FIELD(maps, x), FIELD(maps, weight), FIELD(maps, bias), FIELD(maps, plus), FIELD(maps, other), FIELD(maps, y),
    FIELD(maps, row_sum), FIELD(maps, packed), FIELD(maps, sums), FIELD(maps, dim), FIELD(maps, x_step), FIELD(maps, out),
    FIELD(maps, other_step), FIELD(maps, weight_step), FIELD(maps, turned), FIELD(maps, plus_step), FIELD(maps, inputs),
    FIELD(maps, outputs), FIELD(maps, rows), FIELD(maps, shares), FIELD(maps, threads), END,
};

#ifdef MATRIX_UNIT

#define DEEP 512        // of the depth at a time
#define DEEP_OF_SUM 128 // likewise, where it is the rows: both operands stay in the second cache
#define HIGH 128        // of the rows

// Outputs: for each the sum of all inputs' maps. plus: added to the first.
int linear_maps(const maps *m) {
    int failed = 0;
    long high = m->rows ? least(HIGH, round_up((m->rows + m->threads - 1) / m->threads, SIDE)) : HIGH;
#pragma omp parallel num_threads(m->threads)
    {
        operand weights[MAPS * MAPS];
        float *packed = m->packed;
        for (long i = 0; i < m->inputs; i++)
            for (long j = 0; j < m->outputs; j++) {
                long pair = i * m->outputs + j, dim = m->dim[i], out = m->out[j], step = m->weight_step[pair];
                if (m->turned[pair]) weights[pair] = right_together(dim, out, m->weight[pair], step, packed);
                else weights[pair] = right_transposed_together(dim, out, m->weight[pair], step, packed);
                packed += right_numbers(out, dim);
            }
        space s = space_of(unit_numbers(HIGH, DEEP), &failed);
        tiles_begin();
#pragma omp for schedule(static)
        for (long at = 0; at < m->rows; at += high) {
            if (!s.start) continue;
            long rows = least(high, m->rows - at), next = at + high;
            soon later = no_soon;
            for (long i = 0; i < m->inputs; i++)
                add_soon(&later, least(high, m->rows - next), m->dim[i], m->x[i] + next * m->x_step[i], m->x_step[i]);
            for (long i = 0; i < m->inputs; i++)
                for (long deep = 0; deep < m->dim[i]; deep += DEEP) {
                    long some = least(DEEP, m->dim[i] - deep), first = i + deep == 0;
                    operand x = left_of(rows, some, m->x[i] + at * m->x_step[i] + deep, m->x_step[i], s.start);
                    for (long j = 0; j < m->outputs; j++) {
                        place to = {.at = m->y[j] + at * m->out[j], .step = m->out[j], .add = !first, .row = m->bias[j]};
                        if (first && j == 0 && m->plus) to.plus = m->plus + at * m->plus_step, to.plus_step = m->plus_step;
                        multiply_to(rows, m->out[j], some, x, operand_at(weights[i * m->outputs + j], 0, deep), to, &later);
                    }
                }
        }
        tiles_end();
        free(s.start);
    }
    return failed;
}

// Where the sums of each pair lie, and behind them those of other's rows; how many numbers all of them are.
static long lay_out(const maps *m, float *from, float *sums[], float *row_sums[]) {
    float *next = from;
    for (long i = 0; i < m->inputs; i++)
        for (long j = 0; j < m->outputs; j++) sums[i * m->outputs + j] = next, next += m->out[j] * padded_to_16(m->dim[i]);
    for (long j = 0; j < m->outputs; j++) row_sums[j] = next, next += padded_to_16(m->out[j]);
    return next - from;
}

static void sum_share(const maps *m, long at, long end, float *own, space s) {
    float *sums[MAPS * MAPS], *row_sums[MAPS], *right[MAPS], *left = take(&s, unit_numbers(HIGH, DEEP_OF_SUM));
    long each = lay_out(m, own, sums, row_sums);
    float *start = at < end ? row_sums[0] : own;
    memset(start, 0, (own + each - start) * 4);
    for (long i = 0; i < m->inputs; i++) right[i] = take(&s, right_numbers(m->dim[i], DEEP_OF_SUM));
    for (int add = 0; at < end; at += DEEP_OF_SUM, add = 1) {
        long some = least(DEEP_OF_SUM, end - at);
        operand x[MAPS];
        soon later = no_soon;
        long next = at + DEEP_OF_SUM, rows = least(DEEP_OF_SUM, end - next);
        for (long j = 0; j < m->outputs; j++) add_soon(&later, rows, m->out[j], m->other[j] + next * m->other_step[j], m->other_step[j]);
        if (m->inputs == 1) add_soon(&later, rows, m->dim[0], m->x[0] + next * m->x_step[0], m->x_step[0]);
        for (long i = 0; i < m->inputs; i++) x[i] = right_of(some, m->dim[i], m->x[i] + at * m->x_step[i], m->x_step[i], right[i]);
        for (long j = 0; j < m->outputs; j++)
            for (long first = 0; first < m->out[j]; first += HIGH) {
                long high = least(HIGH, m->out[j] - first), step = m->other_step[j];
                const float *from = m->other[j] + at * step + first;
                operand other = left_transposed(high, some, from, step, left);
                for (long i = 0; i < m->inputs; i++) {
                    long wide = padded_to_16(m->dim[i]);
                    place to = {.at = sums[i * m->outputs + j] + first * wide, .step = wide, .add = add};
                    multiply_to(high, m->dim[i], some, other, x[i], to, &later);
                }
                for (long i = 0; m->row_sum[j] && i < some; i++) add_to(row_sums[j] + first, from + i * step, high);
            }
    }
}

// y = other^T x of each pair, and the sums of other's rows.
int sums_of_outer_products(const maps *m) {
    int failed = 0;
    float *sums[MAPS * MAPS], *row_sums[MAPS];
    long each = lay_out(m, m->sums, sums, row_sums), share_rows = round_up((m->rows + m->shares - 1) / m->shares, DEPTH);
    long depth = unit_numbers(HIGH, DEEP_OF_SUM);
    for (long i = 0; i < m->inputs; i++) depth += right_numbers(m->dim[i], DEEP_OF_SUM);
#pragma omp parallel num_threads(m->threads)
    {
        space s = space_of(depth, &failed);
        tiles_begin();
#pragma omp for schedule(static)
        for (long index = 0; index < m->shares; index++)
            if (s.start) sum_share(m, index * share_rows, least(m->rows, (index + 1) * share_rows), m->sums + index * each, s);
        tiles_end();
        free(s.start);
        for (long pair = 0; pair < m->inputs * m->outputs; pair++) {
            long dim = m->dim[pair / m->outputs];
            add_shares(m->shares, m->out[pair % m->outputs], dim, sums[pair], padded_to_16(dim), each, m->y[pair]);
        }
        for (long j = 0; j < m->outputs; j++)
            if (m->row_sum[j]) add_shares(m->shares, 1, m->out[j], row_sums[j], 0, each, m->row_sum[j]);
    }
    return failed;
}

#endif
