// Vectors of the machine's own width, in the C that GCC and Clang share.
#ifndef SUBQUADRATIC_VECTOR_H
#define SUBQUADRATIC_VECTOR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include <immintrin.h>
#define LANES 16
#elif defined(__AVX__)
#include <immintrin.h>
#define LANES 8
#else
#define LANES 4
#endif

#define INLINE static inline __attribute__((always_inline))
#define BYTES (LANES * 4)

typedef float vec __attribute__((vector_size(BYTES)));
typedef int32_t ivec __attribute__((vector_size(BYTES)));
typedef uint32_t uvec __attribute__((vector_size(BYTES))); // sums of which wrap around
typedef float loose __attribute__((vector_size(BYTES), aligned(4), may_alias));

INLINE vec load(const float *at) { return *(const loose *)at; }
INLINE void store(float *at, vec x) { *(loose *)at = x; }

INLINE vec load_int8(const int8_t *at) {
#if LANES == 16
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)at)));
#elif defined(__AVX2__)
    return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)at)));
#else
    vec x;
    for (int lane = 0; lane < LANES; lane++) x[lane] = at[lane];
    return x;
#endif
}

// Past the caches, to a multiple of BYTES: for what is not read soon. Other threads read it once `stored_past` was called.
INLINE void store_past(float *at, vec x) {
#if LANES == 16
    _mm512_stream_ps(at, (__m512)x);
#elif LANES == 8
    _mm256_stream_ps(at, (__m256)x);
#else
    store(at, x);
#endif
}

INLINE void stored_past(void) {
#if LANES > 4
    _mm_sfence();
#endif
}

INLINE vec all(float x) { return x - (vec){0}; }
INLINE vec choose(ivec where, vec x, vec otherwise) { return (vec)(((ivec)x & where) | ((ivec)otherwise & ~where)); }

// y where either is no number.
INLINE vec larger(vec x, vec y) {
#if LANES == 16
    return (vec)_mm512_max_ps((__m512)x, (__m512)y);
#else
    return choose(x > y, x, y);
#endif
}

INLINE float largest_of(vec x) {
#if LANES == 16
    return _mm512_reduce_max_ps((__m512)x);
#else
    float largest = x[0];
    for (int lane = 1; lane < LANES; lane++) largest = x[lane] > largest ? x[lane] : largest;
    return largest;
#endif
}

INLINE float sum_of(vec x) {
#if LANES == 16
    return _mm512_reduce_add_ps((__m512)x);
#else
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += x[lane];
    return sum;
#endif
}

// 2^x to 1e-8 and rounding, for x up to 127; exactly 1 at 0, 0 where the result would be denormal.
INLINE vec exp2_of(vec x) {
#if LANES == 16
    vec f = (vec)_mm512_reduce_ps((__m512)x, 0);
#else
    vec shifted = x + 12582912.0f; // the low bits of which hold x, rounded
    vec f = x - (shifted - 12582912.0f);
#endif
    vec p = f * 1.535336189e-4f + 1.339887442e-3f; // the polynomial of degree 6 with the smallest relative error that is 1 at 0
    p = f * p + 9.618437358e-3f;
    p = f * p + 5.550332471e-2f;
    p = f * p + 2.402264791e-1f;
    p = f * p + 6.931472029e-1f;
    p = f * p + 1.0f;
#if LANES == 16
    __mmask16 some = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ); // NaN stays
    return (vec)_mm512_maskz_scalef_ps(some, (__m512)p, _mm512_roundscale_ps((__m512)x, 0));
#else
    vec scaled = (vec)((uvec)p + ((uvec)shifted << 23)); // the exponent, and what x < -126 makes of it
    return (vec)((ivec)scaled & ~(x < -126.0f));
#endif
}

INLINE vec exp_of(vec x) { return exp2_of(x * 1.44269504088896341f); }

// A square of LANES rows, LANES numbers each, to its transpose: rows of both halves interleaved, once for each bit.
INLINE void transpose_registers(vec rows[LANES]) {
    ivec low, high;
    for (int lane = 0; lane < LANES; lane++) {
        low[lane] = lane / 2 + (lane % 2) * LANES;
        high[lane] = low[lane] + LANES / 2;
    }
#pragma GCC unroll 4
    for (int bit = 1; bit < LANES; bit *= 2) {
        vec mixed[LANES];
#pragma GCC unroll 8
        for (int i = 0; i < LANES / 2; i++) {
#ifdef __clang__
            for (int lane = 0; lane < LANES; lane++) {
                vec a = rows[i], b = rows[i + LANES / 2];
                mixed[2 * i][lane] = low[lane] < LANES ? a[low[lane]] : b[low[lane] - LANES];
                mixed[2 * i + 1][lane] = high[lane] < LANES ? a[high[lane]] : b[high[lane] - LANES];
            }
#else
            mixed[2 * i] = __builtin_shuffle(rows[i], rows[i + LANES / 2], low);
            mixed[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + LANES / 2], high);
#endif
        }
        memcpy(rows, mixed, sizeof mixed);
    }
}

// to[c * to_step + r] = from[r * step + c] for r < rows and c < columns; zeros for rows <= r < padded.
INLINE void transpose_square(long rows, long columns, long high, const float *from, long step, float *to, long to_step) {
    vec square[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) {
        square[i] = (vec){0};
        if (i < rows && columns == LANES) square[i] = load(from + i * step);
        else if (i < rows) memcpy(&square[i], from + i * step, columns * 4);
    }
    transpose_registers(square);
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) {
        if (i < columns && high == LANES) store(to + i * to_step, square[i]);
        else if (i < columns) memcpy(to + i * to_step, &square[i], high * 4);
    }
}

static void transpose(long rows, long columns, long padded, const float *from, long step, float *to, long to_step) {
    for (long r = 0; r < padded; r += LANES)
        for (long c = 0; c < columns; c += LANES) {
            const float *here = from + r * step + c;
            float *there = to + c * to_step + r;
            if (rows - r >= LANES && columns - c >= LANES) transpose_square(LANES, LANES, LANES, here, step, there, to_step);
            else
                transpose_square(
                    rows - r, columns - c < LANES ? columns - c : LANES, padded - r < LANES ? padded - r : LANES, here, step, there, to_step);
        }
}

#endif
