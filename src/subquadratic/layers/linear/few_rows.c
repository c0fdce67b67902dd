// Linear maps of few rows that read the same, y_j = x W_j^T + b_j: as in few_rows.h.
//
// Loop order: the outputs of all maps, some at a time, divided among threads; of these the rows, some at a time.
// Caches: x (4 T D bytes) and a part of a weight (4 D OUTPUTS bytes) stay in the first two; weights are read once, from elsewhere.
#include "few_rows.h"

static void some_outputs(const few_rows *m, const float *columns, long first, long map, float *turned) {
    long rows = m->rows, high = padded(rows), out = m->out[map], some = least(OUTPUTS, out - first);
    if (!are_turned(rows, m->scale[map])) {
        map_some(rows, m->dim, first, out, m->x, m->weight[map], m->scale[map], m->bias[map], m->y[map], out);
        return;
    }
    map_some(rows, m->dim, first, out, columns, m->weight[map], NULL, m->bias[map], turned - first * high, out);
    transpose(some, rows, some, turned, high, m->y[map] + first, out);
}

int few_rows_maps(const few_rows *m) {
    int failed = 0;
    long rows = m->rows, turned = 0, high = padded(rows);
    for (long map = 0; map < m->maps; map++) turned |= are_turned(rows, m->scale[map]);
#pragma omp parallel num_threads(m->threads)
    {
        space s = space_of(turned ? (m->dim + OUTPUTS) * high : 0, &failed);
        if (s.start) {
            float *y = turned ? take(&s, OUTPUTS * high) : NULL, *columns = turned ? take(&s, m->dim * high) : NULL;
            if (turned) transpose(rows, m->dim, high, m->x, m->dim, columns, high);
            for (long map = 0; map < m->maps; map++)
#pragma omp for schedule(static) nowait
                for (long first = 0; first < m->out[map]; first += OUTPUTS) some_outputs(m, columns, first, map, y);
        }
        free(s.start);
    }
    return failed;
}

const field_layout few_rows_layout[] = {
    STRUCT(few_rows), FIELD(few_rows, x), FIELD(few_rows, weight), FIELD(few_rows, scale), FIELD(few_rows, bias), FIELD(few_rows, y),
    FIELD(few_rows, out), FIELD(few_rows, rows), FIELD(few_rows, dim), FIELD(few_rows, maps), FIELD(few_rows, threads), END,
};
