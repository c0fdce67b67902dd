// Linear maps of few rows that read the same, y_j = x W_j^T + b_j: as in few_rows.h.
//
// Loop order: the outputs of all maps, some at a time, divided among threads; of these the rows, some at a time.
// Caches: x (4 T D bytes) and a part of a weight (4 D OUTPUTS bytes) stay in the first two; weights are read once, from elsewhere.
#include "few_rows.h"

static void some_outputs(const few_rows *m, const float *x, long first, long map, float *turned) {
    long rows = m->rows, high = padded(rows), out = m->out[map], some = least(OUTPUTS, out - first);
    if (!are_turned(rows)) {
        map_some(rows, m->dim, first, out, x, m->weight[map], m->bias[map], m->y[map], out);
        return;
    }
    map_some(rows, m->dim, first, out, x, m->weight[map], m->bias[map], turned - first * high, out);
    transpose(some, rows, some, turned, high, m->y[map] + first, out);
}

int few_rows_maps(const few_rows *m) {
    int failed = 0;
    long rows = m->rows, turned = are_turned(rows), high = padded(rows);
#pragma omp parallel num_threads(m->threads)
    {
        space s = space_of(turned ? (m->dim + OUTPUTS) * high : 0, &failed);
        if (s.start) {
            const float *x = m->x;
            float *y = turned ? take(&s, OUTPUTS * high) : NULL;
            if (turned) {
                float *columns = take(&s, m->dim * high);
                transpose(rows, m->dim, high, x, m->dim, columns, high);
                x = columns;
            }
            for (long map = 0; map < m->maps; map++)
#pragma omp for schedule(static) nowait
                for (long first = 0; first < m->out[map]; first += OUTPUTS) some_outputs(m, x, first, map, y);
        }
        free(s.start);
    }
    return failed;
}

const field_layout few_rows_layout[] = {
    STRUCT(few_rows), FIELD(few_rows, x), FIELD(few_rows, weight), FIELD(few_rows, bias), FIELD(few_rows, y), FIELD(few_rows, out),
    FIELD(few_rows, rows), FIELD(few_rows, dim), FIELD(few_rows, maps), FIELD(few_rows, threads), END,
};
