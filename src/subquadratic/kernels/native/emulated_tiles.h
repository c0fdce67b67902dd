// The instructions of a matrix unit, made of ordinary ones: for tests of matrix_unit.h on processors that have none.
#ifndef SUBQUADRATIC_EMULATED_TILES_H
#define SUBQUADRATIC_EMULATED_TILES_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

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

static void emulated_load(int tile, const void *from, long step) {
    need_tiles();
    for (int row = 0; row < UNIT_ROWS; row++) memcpy(emulated_tiles.bytes[tile][row], (const char *)from + row * step, UNIT_BYTES);
}

static void emulated_store(int tile, void *to, long step) {
    need_tiles();
    for (int row = 0; row < UNIT_ROWS; row++) memcpy((char *)to + row * step, emulated_tiles.bytes[tile][row], UNIT_BYTES);
}

static float of_bfloat16(uint16_t x) {
    uint32_t bits = (x & 0x7f80) ? (uint32_t)x << 16 : 0; // denormals count as zero
    float number;
    memcpy(&number, &bits, 4);
    return number;
}

// sum[row][column] += a[row][2 k] b[k][2 column] + a[row][2 k + 1] b[k][2 column + 1], over k.
static void emulated_product(int sum, int a, int b) {
    need_tiles();
    for (int row = 0; row < UNIT_ROWS; row++)
        for (int column = 0; column < UNIT_BYTES / 4; column++) {
            float total;
            memcpy(&total, emulated_tiles.bytes[sum][row] + 4 * column, 4);
            for (int k = 0; k < UNIT_BYTES / 4; k++)
                for (int half = 0; half < 2; half++) {
                    uint16_t x, y;
                    memcpy(&x, emulated_tiles.bytes[a][row] + 4 * k + 2 * half, 2);
                    memcpy(&y, emulated_tiles.bytes[b][k] + 4 * column + 2 * half, 2);
                    total += of_bfloat16(x) * of_bfloat16(y);
                }
            memcpy(emulated_tiles.bytes[sum][row] + 4 * column, &total, 4);
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
#define _tile_release() (emulated_tiles.configured = 0)
#define _tile_loadd emulated_load
#define _tile_stream_loadd emulated_load
#define _tile_stored emulated_store
#define _tile_zero(tile) memset(emulated_tiles.bytes[tile], 0, sizeof emulated_tiles.bytes[tile])
#define _tile_dpbf16ps emulated_product

#endif
