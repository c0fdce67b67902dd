// Tensors as they come in, memory of a thread's own, what shares of the work sum up, and what is done to rows.
//
// In all kernels
//   a chunk is CHUNK consecutive positions of a head, or fewer at the end, that are computed together. Where they lie along the vector, (X, C),
//     rows are CHUNK numbers apart;
//   a stretch is consecutive chunks of which backward is given what came before the first, and makes again what came before the others;
//   a share is the part of the positions or rows that one task goes through, so that all threads have work. What it sums up lies in memory
//     of its own; such sums are added in the order of the shares, so that results do not depend on which thread is done first;
//   a position is live if it holds a real token. What lies at others may be anything, NaN too;
//   a piece is some of a thread's memory, from a multiple of 64 bytes on.
#ifndef SUBQUADRATIC_TENSOR_H
#define SUBQUADRATIC_TENSOR_H

#include <stdlib.h>

#include "layout.h"
#include "product.h"

#define CHUNK 64
#define LOG2E 1.44269504088896341f

INLINE long round_up(long count, long to) { return (count + to - 1) / to * to; }
INLINE long padded(long count) { return round_up(count, LANES); }    // to whole vectors of this processor
INLINE long padded_to_16(long count) { return round_up(count, 16); } // to whole vectors of any processor

typedef struct {
    float *at;
    int64_t batch, head, row; // steps
} rows; // (B, H, N, X), X contiguous

INLINE float *row_of(const rows *x, long batch, long head, long position) {
    return x->at + batch * x->batch + head * x->head + position * x->row;
}

// Ask for positions before they are needed: a head's lie apart, which the processor does not foresee.
INLINE void fetch(const rows *x, long batch, long head, long at, long stop, long width) {
    for (long i = at; i < stop; i++)
        for (long c = 0; c < width; c += 16) __builtin_prefetch(row_of(x, batch, head, i) + c, 0, 2);
}

// Memory for a thread, to be taken piece by piece.
typedef struct {
    float *start, *next;
} space;

#define OUT_OF_MEMORY (-1) // what a kernel gives back then, after which nothing that it wrote may be read; else 0

// Of no memory where there is none: `failed` says so to the thread that asks at the end.
static space space_of(long numbers, int *failed) {
    space s;
    if (posix_memalign((void **)&s.start, 64, (numbers + 4096) * 4)) {
        s.start = NULL;
#pragma omp atomic write
        *failed = OUT_OF_MEMORY;
    }
    s.next = s.start;
    return s;
}

#ifdef __SANITIZE_ADDRESS__ // pieces lie apart, and what is between them may not be touched
#include <sanitizer/asan_interface.h>
#define GAP 32
INLINE void fence(const float *start, const float *next) {
    ASAN_UNPOISON_MEMORY_REGION(start, (next - start) * 4); // a copy of the space may have put a gap here before
    ASAN_POISON_MEMORY_REGION(next - GAP, GAP * 4);
}
#else
#define GAP 0
INLINE void fence(const float *start, const float *next) {}
#endif

// A piece of `numbers` floats.
static float *take(space *s, long numbers) {
    float *start = s->next;
    s->next += padded_to_16(numbers) + GAP;
    fence(start, s->next);
    return start;
}

static float *take_zeros(space *s, long numbers) {
    float *start = take(s, numbers);
    memset(start, 0, numbers * 4);
    return start;
}

INLINE long least(long a, long b) { return a < b ? a : b; }

INLINE void copy(float *to, const float *from, long numbers) {
    for (; numbers >= LANES; numbers -= LANES, to += LANES, from += LANES) store(to, load(from));
    for (long i = 0; i < numbers; i++) to[i] = from[i];
}

INLINE void add_to(float *sum, const float *x, long width) {
    long c = 0;
    for (; c + LANES <= width; c += LANES) store(sum + c, load(sum + c) + load(x + c));
    for (; c < width; c++) sum[c] += x[c];
}

INLINE float most_of(float x, float y) { return y > x || y != y ? y : x; } // what is no number stays

INLINE float dot(const float *x, const float *y, long numbers) { // a multiple of LANES
    vec sum = {0};
    for (long i = 0; i < numbers; i += LANES) sum += load(x + i) * load(y + i);
    return sum_of(sum);
}

// x (height, C) times a factor for each position.
static void scale_columns(long height, long columns, float *x, const float *factors) {
    for (long i = 0; i < height; i++)
        for (long c = 0; c < columns; c += LANES) store(x + i * CHUNK + c, load(x + i * CHUNK + c) * load(factors + c));
}

// to = x y, whose channels (i, i + half) are the parts of complex numbers; sign -1: x times the conjugate of y.
INLINE void times_complex(long half, const float *x, const float *y, float sign, float *to) {
    long i = 0;
    for (; i + LANES <= half; i += LANES) {
        vec a = load(x + i), b = load(x + half + i), c = load(y + i), d = load(y + half + i) * sign;
        store(to + i, a * c - b * d);
        store(to + half + i, b * c + a * d);
    }
    for (; i < half; i++) {
        float a = x[i], b = x[half + i], c = y[i], d = y[half + i] * sign;
        to[i] = a * c - b * d;
        to[half + i] = b * c + a * d;
    }
}

// (rows, width) of every share, rows `step` and shares `each` apart, added in order; by all threads of a parallel region.
static void add_shares(long shares, long rows, long width, const float *from, long step, long each, float *to) {
#pragma omp for schedule(static)
    for (long i = 0; i < rows; i++)
        for (long c = 0; c < width; c += LANES) {
            vec sum = load(from + i * step + c);
            for (long share = 1; share < shares; share++) sum += load(from + share * each + i * step + c);
            if (c + LANES <= width) store(to + i * width + c, sum);
            else memcpy(to + i * width + c, &sum, (width - c) * 4);
        }
}

// The same, transposed: (width, rows).
static void add_shares_transposed(long shares, long rows, long width, const float *from, long step, long each, float *to) {
#pragma omp for schedule(static)
    for (long c = 0; c < width; c += LANES)
        for (long i = 0; i < rows; i += LANES) {
            float square[LANES * LANES];
            long high = least(LANES, rows - i);
            for (long row = 0; row < high; row++) {
                vec sum = {0};
                for (long share = 0; share < shares; share++) sum += load(from + share * each + (i + row) * step + c);
                store(square + row * LANES, sum);
            }
            transpose_square(high, least(LANES, width - c), high, square, LANES, to + c * rows + i, rows);
        }
}

#endif
