// Products of float32 matrices by the matrix unit of a processor with AMX, which multiplies bfloat16 and sums in float32.
//
// A float32 number is the sum of three of bfloat16, exactly: x = h + m + l, each the rest rounded to 8 bits. Of the nine products of two such
// numbers six are summed up; the others are below 2^-24 of theirs, what rounding once costs. The unit does sixteen times as many products of
// bfloat16 as the vector unit does of float32, so that six for one are still more than twice as fast; and it sums up 32 of them before it
// rounds to the accumulator, so that errors are smaller than those of float32 added up one by one.
//
// Three parts of an infinity are no numbers, so that a result may be none where it should be infinite: such results are made again from the
// operands, each put together from its parts, by the vector unit. Denormal parts count as zero: numbers below 1e-33 lose digits.
#ifndef SUBQUADRATIC_MATRIX_UNIT_H
#define SUBQUADRATIC_MATRIX_UNIT_H

#include "tensor.h"

#define SIDE 16   // rows of a tile
#define DEPTH 32  // what a tile holds in a row, of bfloat16
#define TILE 512  // a tile's numbers
#define PARTS 3

// For each 16 rows (of a right operand: columns) and each 32 of the depth three tiles: high, middle and low parts. Within 32 the depth goes
// 0, 16, 1, 17, ... in both operands, which saves a permutation.
typedef struct {
    uint16_t *at;
    long step; // from one 16 rows to the next
} operand;

#define PANEL 64
#define ROW_BLOCK 128

// How many floats of memory an operand takes.
INLINE long right_numbers(long columns, long depth) { return round_up(columns, SIDE) * round_up(depth, DEPTH) * PARTS / 2; }
INLINE long unit_numbers(long count, long depth) { return right_numbers(count, depth); }

INLINE operand operand_in(float *memory, long depth) {
    return (operand){(uint16_t *)memory, round_up(depth, DEPTH) / DEPTH * PARTS * TILE};
}

// The operand from row (or column) `at` and depth `deep` on, multiples of 16 and 32.
INLINE operand operand_at(operand x, long at, long deep) {
    return (operand){x.at + at / SIDE * x.step + deep / DEPTH * PARTS * TILE, x.step};
}

// The parts of 16 numbers and of the 16 that come after them in the depth, in pairs.
typedef struct {
    __m512i at[PARTS];
} row_parts;

INLINE row_parts parts_of(__m512 x, __m512 y) {
    const __m512i half = _mm512_set1_epi32(0x8000), high = _mm512_set1_epi32(0xffff0000);
    row_parts parts;
#pragma GCC unroll 3
    for (int part = 0; part < PARTS; part++) {
        __m512i a = _mm512_castps_si512(x), b = _mm512_castps_si512(y);
        if (part < PARTS - 1) {
            a = _mm512_and_si512(_mm512_add_epi32(a, half), high);
            b = _mm512_and_si512(_mm512_add_epi32(b, half), high);
            x = _mm512_sub_ps(x, _mm512_castsi512_ps(a)), y = _mm512_sub_ps(y, _mm512_castsi512_ps(b));
        }
        parts.at[part] = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(a, 16), b);
    }
    return parts;
}

// To one row of three tiles.
INLINE void put_parts(row_parts parts, uint16_t *to) {
#pragma GCC unroll 3
    for (int part = 0; part < PARTS; part++) _mm512_store_si512(to + part * TILE, parts.at[part]);
}

INLINE __mmask16 first_lanes(long count) { return count >= LANES ? 0xffff : count <= 0 ? 0 : (1 << count) - 1; }

// Three tiles from (rows, columns): at most 16 x 32 of them, or 32 x 16 where the rows are the depth; zeros beyond. transposed: the columns are
// the tile's rows.
INLINE void fill_tiles(long rows, long columns, const float *from, long step, int deep_rows, int transposed, uint16_t *to) {
    vec one[SIDE], other[SIDE];
    long next = deep_rows ? SIDE * step : SIDE;
    __mmask16 lanes = first_lanes(columns), more = deep_rows ? lanes : first_lanes(columns - SIDE);
#pragma GCC unroll 16
    for (int i = 0; i < SIDE; i++) {
        one[i] = (vec)_mm512_maskz_loadu_ps(i < rows ? lanes : 0, from + i * step);
        other[i] = (vec)_mm512_maskz_loadu_ps(i + (deep_rows ? SIDE : 0) < rows ? more : 0, from + i * step + next);
    }
    if (transposed) transpose_registers(one), transpose_registers(other);
#pragma GCC unroll 16
    for (int i = 0; i < SIDE; i++) put_parts(parts_of((__m512)one[i], (__m512)other[i]), to + i * DEPTH);
}

INLINE void fill_operand(long count, long depth, const float *from, long step, int deep_rows, int transposed, operand to) {
    for (long at = 0; at < count; at += SIDE)
        for (long deep = 0; deep < depth; deep += DEPTH)
            fill_tiles(deep_rows ? depth - deep : count - at, deep_rows ? count - at : depth - deep,
                       from + (deep_rows ? deep * step + at : at * step + deep), step, deep_rows, transposed,
                       operand_at(to, at, deep).at);
}

// A left operand (rows, depth), and its transpose (depth, rows).
static __attribute__((noinline)) operand left_of(long rows, long depth, const float *from, long step, float *memory) {
    fill_operand(rows, depth, from, step, 0, 0, operand_in(memory, depth));
    return operand_in(memory, depth);
}
static __attribute__((noinline)) operand left_transposed(long rows, long depth, const float *from, long step, float *memory) {
    fill_operand(rows, depth, from, step, 1, 1, operand_in(memory, depth));
    return operand_in(memory, depth);
}

// A right operand (depth, columns), and its transpose (columns, depth).
static __attribute__((noinline)) operand right_of(long depth, long columns, const float *from, long step, float *memory) {
    fill_operand(columns, depth, from, step, 1, 0, operand_in(memory, depth));
    return operand_in(memory, depth);
}
static __attribute__((noinline)) operand right_transposed(long depth, long columns, const float *from, long step, float *memory) {
    fill_operand(columns, depth, from, step, 0, 1, operand_in(memory, depth));
    return operand_in(memory, depth);
}

INLINE operand right_once(long depth, long columns, const float *from, long step, float *memory) {
    return right_of(depth, columns, from, step, memory);
}

// A thread's tiles: between these two it may multiply.
static void tiles_begin(void) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int i = 0; i < 8; i++) shape.bytes[i] = 64, shape.rows[i] = SIDE;
    _tile_loadconfig(&shape);
}
static void tiles_end(void) { _tile_release(); }

// Where the unit's tiles come from. Tiles 4 and 5 hold 16 rows of the left operand and the 16 below them, 6 and 7 hold 16 columns of the
// right one and the 16 beside them, 0 to 3 what these sum up to: 4 by 6, 4 by 7, 5 by 6 and 5 by 7. An instruction names its tiles by literals.
typedef struct {
    const uint16_t *a, *b; // the depth at hand
    long a_step, b_step;   // to the rows below, and to the columns beside
    int high, wide;        // whether there are any; known when this is compiled
} tile_source;

// The left operand goes past the first cache, to leave it to the right one's columns, which the next rows need again.
INLINE void load_rows(const tile_source *t, int part) { _tile_stream_loadd(4, t->a + part * TILE, 64); }
INLINE void load_rows_below(const tile_source *t, int part) { _tile_stream_loadd(5, t->a + t->a_step + part * TILE, 64); }
INLINE void load_columns(const tile_source *t, int part) { _tile_loadd(6, t->b + part * TILE, 64); }
INLINE void load_columns_beside(const tile_source *t, int part) { _tile_loadd(7, t->b + t->b_step + part * TILE, 64); }

// All products of the tiles at hand; the next parts of one operand come into each of its tiles as soon as it is free.
INLINE void multiply_tiles_then_left(const tile_source *t, int part) {
    _tile_dpbf16ps(0, 4, 6);
    if (t->wide) _tile_dpbf16ps(1, 4, 7);
    load_rows(t, part);
    if (!t->high) return;
    _tile_dpbf16ps(2, 5, 6);
    if (t->wide) _tile_dpbf16ps(3, 5, 7);
    load_rows_below(t, part);
}
INLINE void multiply_tiles_then_right(const tile_source *t, int part) {
    _tile_dpbf16ps(0, 4, 6);
    if (t->high) _tile_dpbf16ps(2, 5, 6);
    load_columns(t, part);
    if (!t->wide) return;
    _tile_dpbf16ps(1, 4, 7);
    if (t->high) _tile_dpbf16ps(3, 5, 7);
    load_columns_beside(t, part);
}
INLINE void multiply_tiles(const tile_source *t) {
    _tile_dpbf16ps(0, 4, 6);
    if (t->wide) _tile_dpbf16ps(1, 4, 7);
    if (t->high) _tile_dpbf16ps(2, 5, 6);
    if (t->high && t->wide) _tile_dpbf16ps(3, 5, 7);
}

// Where results come, and what is added to them: what is there; the same to each row; (rows, columns) of something else. Null: nothing is.
typedef struct {
    float *at;
    long step;
    int add;
    const float *row, *plus;
    long plus_step;
} place;

INLINE place place_from(place p, long at, long right) {
    p.at += at * p.step + right, p.row = p.row ? p.row + right : NULL, p.plus = p.plus ? p.plus + at * p.plus_step + right : NULL;
    return p;
}

// Of results (rows, columns) what the tiles at hand give: four of 16 x 16 numbers.
typedef struct {
    float sums[4][SIDE * SIDE] __attribute__((aligned(64)));
    long at, right;            // where they begin
    long rows, columns, depth; // from there on
    operand a, b;
    place to;
    int far; // the place is more than the first cache holds
    void *with;
} four;

// What may be done with results instead of writing them: with a row of the tile `tile` and those right of it and below, `each` of them.
typedef struct {
    void (*call)(const four *x, long row, int tile);
    int each;
} put;

// Whether the row is one of the results, and the tile's columns.
INLINE int is_in(const four *x, long row, int tile) { return tile / 2 * SIDE + row < x->rows && tile % 2 * SIDE < x->columns; }

// Numbers put together again from their parts, the first of which lies at `tile`, each `step` bfloat16 from the one before.
static void whole_numbers(const uint16_t *tile, long step, float *to) {
    for (int i = 0; i < SIDE; i++) {
        float parts[PARTS];
        for (int part = 0; part < PARTS; part++) {
            uint32_t bits = (uint32_t)tile[part * TILE + i * step] << 16;
            memcpy(parts + part, &bits, 4);
        }
        to[i] = parts[0] + parts[1] + parts[2];
        if (!isfinite(parts[0])) to[i] = isnan(parts[1]) ? parts[0] : copysignf(3.40282347e38f, parts[0]); // rounded up to infinity
    }
}

// A row of a tile's results by the vector unit.
static __attribute__((noinline)) vec sum_numbers(const four *x, int tile, int row) {
    const uint16_t *a = operand_at(x->a, tile / 2 * SIDE, 0).at, *b = operand_at(x->b, tile % 2 * SIDE, 0).at;
    vec sum = {0};
    for (long deep = 0; deep < x->depth; deep++) {
        float left[SIDE], right[SIDE];
        long tiles = deep / DEPTH * PARTS * TILE, pair = deep % SIDE, half = deep % DEPTH / SIDE;
        whole_numbers(a + tiles + pair * 2 + half, DEPTH, left);
        whole_numbers(b + tiles + pair * DEPTH + half, 2, right);
        sum += left[row] * load(right);
    }
    return sum;
}

// A row of a tile's results; what is no number is made again.
INLINE vec sum_at(const four *x, int tile, int row) {
    vec sum = load(x->sums[tile] + row * SIDE);
    if (_mm512_cmp_ps_mask((__m512)sum, (__m512)sum, _CMP_UNORD_Q)) sum = choose(sum == sum, sum, sum_numbers(x, tile, row));
    return sum;
}

// Put a row of a tile's results in its place. Where nothing is added nothing is read: memory that is new would be mapped twice, first for
// reading, and all processors told.
INLINE void put_row(const four *x, long row, int tile) {
    vec nothing = {0};
    __asm__ volatile("" : "+v"(nothing)); // with a sum in between, loads and stores hold up the tiles less: a product is a fifth faster
    if (!is_in(x, row, tile)) return;
    long right = tile % 2 * SIDE;
    vec sum = sum_at(x, tile, row);
    long down = tile / 2 * SIDE + row;
    float *to = x->to.at + down * x->to.step + right;
    __mmask16 lanes = first_lanes(x->columns - right);
    if (x->to.plus) sum += (vec)_mm512_maskz_loadu_ps(lanes, x->to.plus + down * x->to.plus_step + right);
    if (x->columns - right >= SIDE) store(to, sum + (x->to.add ? load(to) : x->to.row ? load(x->to.row + right) : nothing));
    else {
        if (x->to.add || x->to.row) sum += (vec)_mm512_maskz_loadu_ps(lanes, x->to.add ? to : x->to.row + right);
        _mm512_mask_storeu_ps(to, lanes, (__m512)sum);
    }
}

// Some of the 64 rows of four tiles' results.
INLINE void put_rows(const four *x, long first, long stop) {
    for (long i = first; i < stop; i++) put_row(x, i % SIDE, i / SIDE);
}

// Where a row of the tile `tile` comes in a left operand (rows, depth), and in a right one (depth, columns).
INLINE uint16_t *left_at(const four *x, long row, int tile, operand to) {
    return operand_at(to, x->at + tile / 2 * SIDE, x->right).at + row * DEPTH;
}
INLINE uint16_t *right_at(const four *x, long row, int tile, operand to) {
    return operand_at(to, x->right + tile % 2 * SIDE, x->at).at + row * DEPTH;
}

// A row's numbers of two tiles side by side into a left operand; a row's numbers of all four into a right one, where numbers stand together
// that are 16 apart in depth, or into both: pairs of the one are pairs of the other, transposed.
INLINE void put_left(const four *x, long row, int tile, const vec numbers[2], operand to) {
    put_parts(parts_of((__m512)numbers[0], (__m512)numbers[1]), left_at(x, row, tile, to));
}
INLINE void put_right(const four *x, long row, const vec numbers[4], operand to) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) put_parts(parts_of((__m512)numbers[i], (__m512)numbers[i + 2]), right_at(x, row, i, to));
}
INLINE void put_both(const four *x, long row, const vec numbers[4], operand left, operand right) {
    row_parts up = parts_of((__m512)numbers[0], (__m512)numbers[1]), down = parts_of((__m512)numbers[2], (__m512)numbers[3]), one, other;
#pragma GCC unroll 3
    for (int part = 0; part < PARTS; part++) {
        one.at[part] = _mm512_mask_blend_epi16(0xaaaaaaaa, up.at[part], _mm512_slli_epi32(down.at[part], 16));
        other.at[part] = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(up.at[part], 16), down.at[part]);
    }
    put_parts(up, left_at(x, row, 0, left)), put_parts(down, left_at(x, row, 2, left));
    put_parts(one, right_at(x, row, 0, right)), put_parts(other, right_at(x, row, 1, right));
}

INLINE void put_each(const four *x, long first, long stop, put then) {
    for (long i = first / then.each; x->rows && i < stop / then.each; i++) then.call(x, i * then.each / 4, i * then.each % 4);
}

INLINE void ask_for(const four *x, long first, long stop) {
    for (long i = first; x->far && i < stop; i++)
        __builtin_prefetch(x->to.at + (i / (2 * SIDE) * SIDE + i % SIDE) * x->to.step + i / SIDE % 2 * SIDE, 1);
}

// Rows that are read after this product: lines of them are asked for meanwhile, a few at a time.
#define SOON 5 // inputs or outputs that share maps (MAPS of linear.c), and one more
typedef struct {
    const char *row[SOON];
    long rows[SOON], width[SOON], step[SOON]; // in bytes
    long number, of, at;                      // how many of these there are; which is at hand, and its line
} soon;
static const soon no_soon;

static void add_soon(soon *s, long rows, long width, const float *from, long step) {
    if (rows <= 0) return;
    s->row[s->number] = (const char *)from, s->rows[s->number] = rows, s->width[s->number] = width * 4, s->step[s->number] = step * 4;
    s->number++;
}

INLINE void ask_soon(soon *s) {
    for (int i = 0; i < 3 && s->of < s->number; i++) {
        __builtin_prefetch(s->row[s->of] + s->at, 0, 2);
        if ((s->at += 64) < s->width[s->of]) continue;
        s->at = 0, s->row[s->of] += s->step[s->of];
        if (--s->rows[s->of] == 0) s->of++;
    }
}

#define FINE 65536

typedef struct {
    unsigned done, each; // of 64 rows, in parts of 1 / FINE
} pace;

// then: what is done with results, or a null call. later: what is read after this product, or null.
INLINE void put_some(const four *x, pace *rows, put then, soon *later) {
    long first = rows->done / FINE, stop = least(4 * SIDE, (rows->done += rows->each) / FINE);
    if (then.call) put_each(x, first, stop, then);
    else {
        put_rows(x, first, stop);
        ask_for(x, stop, stop + (stop - first));
    }
    if (later) ask_soon(later);
}

// Sum up one tile, two or four. Meanwhile, a few rows at a time so that neither unit waits for the other, the vector unit puts the results
// before these in their places.
INLINE void sum_tiles(int high, int wide, four *to, const four *before, put then, soon *later) {
    tile_source t = {to->a.at, to->b.at, to->a.step, to->b.step, high, wide};
    long steps = (to->depth + DEPTH - 1) / DEPTH;
    __asm__ volatile("" ::: "memory"); // the instructions do not say that they read memory
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    pace rows = {.each = (4 * SIDE * FINE + 6 * steps - 1) / (6 * steps)};
    if (!then.call) ask_for(before, 0, rows.each / FINE + 1);
    for (long step = 0; step < steps; step++, t.a += PARTS * TILE, t.b += PARTS * TILE) {
        load_rows(&t, 2);
        load_columns(&t, 0);
        if (high) load_rows_below(&t, 2);
        if (wide) load_columns_beside(&t, 0);
        multiply_tiles_then_left(&t, 1);
        put_some(before, &rows, then, later);
        multiply_tiles_then_right(&t, 1);
        put_some(before, &rows, then, later);
        multiply_tiles_then_left(&t, 0);
        put_some(before, &rows, then, later);
        multiply_tiles_then_right(&t, 2);
        put_some(before, &rows, then, later);
        multiply_tiles_then_right(&t, 0);
        put_some(before, &rows, then, later);
        multiply_tiles(&t);
        put_some(before, &rows, then, later);
    }
    _tile_stored(0, to->sums[0], 64);
    if (wide) _tile_stored(1, to->sums[1], 64);
    if (high) _tile_stored(2, to->sums[2], 64);
    if (high && wide) _tile_stored(3, to->sums[3], 64);
    __asm__ volatile("" ::: "memory");
}

// Products one after another: the last results of one are put in their places as the next is summed up.
typedef struct {
    four results[2];
    int now; // which of them is summed up next
} queue;

static void queue_begin(queue *q) { q->now = 0, q->results[1].rows = q->results[1].far = 0; }

INLINE void queue_end(queue *q, put then) {
    const four *before = q->results + !q->now;
    if (then.call) put_each(before, 0, 4 * SIDE, then);
    else put_rows(before, 0, 4 * SIDE);
    queue_begin(q);
}

INLINE void queue_product(
    queue *q, long rows, long columns, long depth, operand a, operand b, place to, put then, void *with, soon *later) {
    int far = rows * to.step > 8192;
    for (long right = 0; right < columns; right += 2 * SIDE)
        for (long at = 0; at < rows; at += 2 * SIDE) {
            four *now = q->results + q->now, *before = q->results + !q->now;
            now->at = at, now->right = right, now->rows = rows - at, now->columns = columns - right, now->depth = depth;
            now->a = operand_at(a, at, 0), now->b = operand_at(b, right, 0), now->to = place_from(to, at, right), now->far = far, now->with = with;
            if (now->rows > SIDE && now->columns > SIDE) sum_tiles(1, 1, now, before, then, later);
            else if (now->rows > SIDE) sum_tiles(1, 0, now, before, then, later);
            else if (now->columns > SIDE) sum_tiles(0, 1, now, before, then, later);
            else sum_tiles(0, 0, now, before, then, later);
            q->now = !q->now;
        }
}

// What comes to a place: a (rows, depth) b (depth, columns), and what is added there. later: what is read after this, or null.
static __attribute__((noinline)) void multiply_to(long rows, long columns, long depth, operand a, operand b, place to, soon *later) {
    queue q;
    queue_begin(&q);
    queue_product(&q, rows, columns, depth, a, b, to, (put){.call = NULL}, NULL, later);
    queue_end(&q, (put){.call = NULL});
}

// c (rows, columns) = [c +] a (rows, depth) b (depth, columns).
INLINE void multiply(long rows, long columns, long depth, operand a, operand b, float *c, long c_step, int add) {
    multiply_to(rows, columns, depth, a, b, (place){.at = c, .step = c_step, .add = add}, NULL);
}

// The same product, which goes to `then` instead of c.
INLINE void multiply_then(long rows, long columns, long depth, operand a, operand b, put then, void *with) {
    queue q;
    queue_begin(&q);
    queue_product(&q, rows, columns, depth, a, b, (place){.at = NULL}, then, with, NULL);
    queue_end(&q, then);
}

#endif
