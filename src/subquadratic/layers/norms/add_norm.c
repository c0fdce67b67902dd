// The residual stream on its way into a branch: what the last branch gave is added, and the sum is normalised (arXiv 1607.06450),
//
//     s = x + delta,   n = (s - mean(s)) / sqrt(var(s) + epsilon),   y = n w + b
//     ds = (g - mean(g) - n mean(g n)) / sqrt(var(s) + epsilon) with g = dy w, and what reaches s besides;   dw = sum dy n,   db = sum dy
//
// where means are over a row, sums over rows. Kept are each row's mean and 1 / deviation.
//
// Loop order: row after row, rows divided among threads, or backward into shares that sum up dw and db by themselves.
// Caches: a row is gone through several times, and it, w, b and a share's sums (4 D bytes each) stay in the first cache up to a width of about
// a thousand; from memory the tensors are read once.
//
// T rows, D width.
#include "add_norm.h"
#include "tensor.h"

// Of each loop over a row there are two: whole vectors, then what is left of the row, number by number.
static void forward_row(const add_norm *a, long row) {
    long dim = a->dim, c;
    const float *x = a->x + row * dim, *weight = a->weight, *bias = a->bias;
    float *y = a->y + row * dim, rest = 0, mean, over;
    vec all_of = {0};
    if (a->delta) {
        const float *delta = a->delta + row * dim;
        float *sum = a->sum + row * dim;
        for (c = 0; c + LANES <= dim; c += LANES) {
            vec s = load(x + c) + load(delta + c);
            store(sum + c, s);
            all_of += s;
        }
        for (; c < dim; c++) {
            sum[c] = x[c] + delta[c];
            rest += sum[c];
        }
        x = sum;
    } else {
        for (c = 0; c + LANES <= dim; c += LANES) all_of += load(x + c);
        for (; c < dim; c++) rest += x[c];
    }
    mean = (sum_of(all_of) + rest) / dim;
    all_of = (vec){0}, rest = 0;
    for (c = 0; c + LANES <= dim; c += LANES) {
        vec off = load(x + c) - mean;
        all_of += off * off;
    }
    for (; c < dim; c++) rest += (x[c] - mean) * (x[c] - mean);
    over = 1 / sqrtf((sum_of(all_of) + rest) / dim + a->epsilon);
    for (c = 0; c + LANES <= dim; c += LANES) store(y + c, (load(x + c) - mean) * over * load(weight + c) + load(bias + c));
    for (; c < dim; c++) y[c] = (x[c] - mean) * over * weight[c] + bias[c];
    a->stats[2 * row] = mean, a->stats[2 * row + 1] = over;
}

int add_norm_forward(const add_norm *a) {
#pragma omp parallel for schedule(static) num_threads(a->threads)
    for (long row = 0; row < a->rows; row++) forward_row(a, row);
    return 0;
}

static void backward_row(const add_norm *a, long row, float *d_weight, float *d_bias) {
    long dim = a->dim, c;
    const float *x = a->x + row * dim, *d_y = a->d_y + row * dim, *d_sum = a->d_sum ? a->d_sum + row * dim : NULL, *weight = a->weight;
    float *d_x = a->d_x + row * dim, mean = a->stats[2 * row], over = a->stats[2 * row + 1], first = 0, second = 0;
    vec sum = {0}, inner = {0};
    for (c = 0; c + LANES <= dim; c += LANES) {
        vec off = (load(x + c) - mean) * over, given = load(d_y + c), slope = given * load(weight + c);
        sum += slope;
        inner += slope * off;
        store(d_weight + c, load(d_weight + c) + given * off);
        store(d_bias + c, load(d_bias + c) + given);
    }
    for (; c < dim; c++) {
        float off = (x[c] - mean) * over;
        first += d_y[c] * weight[c];
        second += d_y[c] * weight[c] * off;
        d_weight[c] += d_y[c] * off;
        d_bias[c] += d_y[c];
    }
    float even = (sum_of(sum) + first) / dim, along = (sum_of(inner) + second) / dim;
    for (c = 0; c + LANES <= dim; c += LANES) {
        vec slope = (load(d_y + c) * load(weight + c) - even - (load(x + c) - mean) * over * along) * over;
        store(d_x + c, d_sum ? slope + load(d_sum + c) : slope);
    }
    for (; c < dim; c++) d_x[c] = (d_y[c] * weight[c] - even - (x[c] - mean) * over * along) * over + (d_sum ? d_sum[c] : 0);
}

int add_norm_backward(const add_norm *a) {
    long wide = padded_to_16(a->dim), share_rows = (a->rows + a->shares - 1) / a->shares;
#pragma omp parallel num_threads(a->threads)
    {
#pragma omp for schedule(static)
        for (long index = 0; index < a->shares; index++) {
            float *sums = a->sums + index * 2 * wide;
            memset(sums, 0, 2 * wide * 4);
            for (long row = index * share_rows; row < least(a->rows, (index + 1) * share_rows); row++) backward_row(a, row, sums, sums + wide);
        }
        add_shares(a->shares, 1, a->dim, a->sums, 0, 2 * wide, a->d_weight);
        add_shares(a->shares, 1, a->dim, a->sums + wide, 0, 2 * wide, a->d_bias);
    }
    return 0;
}

const field_layout add_norm_layout[] = {
    STRUCT(add_norm), FIELD(add_norm, x), FIELD(add_norm, delta), FIELD(add_norm, weight), FIELD(add_norm, bias), FIELD(add_norm, sum),
    FIELD(add_norm, y), FIELD(add_norm, stats), FIELD(add_norm, d_sum), FIELD(add_norm, d_y), FIELD(add_norm, d_x),
    FIELD(add_norm, d_weight), FIELD(add_norm, d_bias), FIELD(add_norm, sums), FIELD(add_norm, rows), FIELD(add_norm, dim),
    FIELD(add_norm, shares), FIELD(add_norm, threads), FIELD(add_norm, epsilon), END,
};
