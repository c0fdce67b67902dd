// The instructions of a matrix unit, made of ordinary ones: for tests of matrix_unit.h on processors that have none.
#ifndef SUBQUADRATIC_EMULATED_TILES_H
#define SUBQUADRATIC_EMULATED_TILES_H

#include "vector.h"

#define UNIT_ROWS 16
#define UNIT_BYTES 64

static _Thread_local struct {
    int configured;
    uint8_t bytes[8][UNIT_ROWS][UNIT_BYTES];
} emulated_tiles;

// An access outside of tiles_begin and tiles_end is an error of the processor's too.
static void need_tiles(void) {
    if (!emulated_tiles.configured) __builtin_trap();
}

static void emulated_config(const void *shape) {
    (void)shape; // always eight tiles of 16 rows
    memset(&emulated_tiles, 0, sizeof emulated_tiles);
    emulated_tiles.configured = 1;
}

static void emulated_release(void) { emulated_tiles.configured = 0; }

static void emulated_zero(int tile) { memset(emulated_tiles.bytes[tile], 0, sizeof emulated_tiles.bytes[tile]); }

static void emulated_load(int tile, const void *from, long step) {
    need_tiles();
    for (int row = 0; row < UNIT_ROWS; row++) memcpy(emulated_tiles.bytes[tile][row], (const char *)from + row * step, UNIT_BYTES);
}

static void emulated_store(int tile, void *to, long step) {
    need_tiles();
    for (int row = 0; row < UNIT_ROWS; row++) memcpy((char *)to + row * step, emulated_tiles.bytes[tile][row], UNIT_BYTES);
}

// Denormals to zeros of their sign.
INLINE vec flushed(vec x) { return (vec)((uvec)x & ((uvec)(((uvec)x & 0x7f800000u) != 0) | 0x80000000u)); }

INLINE vec times_plus(uvec x, uvec y, vec sum) {
    return flushed((vec)_mm512_fmadd_ps((__m512)flushed((vec)x), (__m512)flushed((vec)y), (__m512)sum));
}

// sum[row][column] += a[row][2 k] b[k][2 column] + a[row][2 k + 1] b[k][2 column + 1], over k, rounded where Intel's manual says that
// TDPBF16PS rounds: products of the first of each pair are added up from zero, those of the second apart from them, and what the tile held is
// rounded once for all 32, not once for each.
static void emulated_product(int sum, int a, int b) {
    need_tiles();
    for (int row = 0; row < UNIT_ROWS; row++) {
        uint32_t pairs[UNIT_BYTES / 4];
        memcpy(pairs, emulated_tiles.bytes[a][row], UNIT_BYTES);
        vec first = {0}, second = {0};
        for (int k = 0; k < UNIT_BYTES / 4; k++) {
            uvec left = (uvec){0} + pairs[k], right;
            memcpy(&right, emulated_tiles.bytes[b][k], UNIT_BYTES);
            first = times_plus(left << 16, right << 16, first);
            second = times_plus(left & 0xffff0000u, right & 0xffff0000u, second);
        }
        float *to = (float *)emulated_tiles.bytes[sum][row];
        store(to, flushed(flushed(load(to)) + flushed(first + second)));
    }
}

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_loadd
#undef _tile_stream_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#define _tile_loadconfig emulated_config
#define _tile_release emulated_release
#define _tile_loadd emulated_load
#define _tile_stream_loadd emulated_load
#define _tile_stored emulated_store
#define _tile_zero emulated_zero
#define _tile_dpbf16ps emulated_product

#endif
