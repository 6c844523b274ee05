// kernels_avx512.c: the products for x86-64 with AVX-512 and VNNI.
//
//     one register of weights:   row 0: k k+1 k+2 k+3 | row 1: k k+1 k+2 k+3 | ... | row 15        16 rows x 4 columns, u8
//     one register of x:         the token's k k+1 k+2 k+3, sixteen times over                     broadcast, s8
//     vpdpbusd:                  sum of row r += w[r][k] x[k] + ... + w[r][k+3] x[k+3]             64 products at once
//
//     token 0   [ sums of rows 0..15 ][ rows 16..31 ]     A tile is two panels by up to eight tokens: 16 registers of sums,
//     token 1   [ sums of rows 0..15 ][ rows 16..31 ]     2 of weights, 1 of x. Each weight that is loaded meets eight
//      ...                                                tokens, each x that is broadcast meets 32 rows.
//     token 7   [ sums of rows 0..15 ][ rows 16..31 ]
//
// Weights are stored as u8 = q + 128, as the instruction wants its first factor unsigned. The sums start at -128 times the
// sum of the block's x, which takes the 128 out again.

#include "internal.h"

#ifdef __x86_64__

#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")))
#define INLINE TARGET static inline __attribute__((always_inline))

#include "vector.h"

// ---- int8 ----

// The sums of one token: rows 0..15 and rows 16..31.
typedef struct {
    __m512i low, high;
} Sums;

INLINE Sums start(int32_t offset) { return (Sums){_mm512_set1_epi32(offset), _mm512_set1_epi32(offset)}; }

INLINE Sums step(Sums s, __m512i w_low, __m512i w_high, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    __m512i xk = _mm512_set1_epi32(four);
    return (Sums){_mm512_dpbusd_epi32(s.low, w_low, xk), _mm512_dpbusd_epi32(s.high, w_high, xk)};
}

// y = fmaf(w_scale * x_scale, sum, y)
INLINE void finish(float *y, __m512 w_scale, float x_scale, __m512i sum) {
    __m512 scale = _mm512_mul_ps(w_scale, _mm512_set1_ps(x_scale));
    _mm512_storeu_ps(y, _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(sum), _mm512_loadu_ps(y)));
}

INLINE __m512 scales(const uint8_t *w) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)w)); }

// What a tile works on: the rows of its tokens. Where fewer are left than a tile has, the last one is taken again, and what
// becomes of it goes to waste.
typedef struct {
    float *low[8], *high[8];  // rows 0..15 and 16..31 of the output
    const int8_t *x[8];
    const float *x_scale[8];
    const int32_t *x_offset[8];
    const uint8_t *w_low, *w_high, *scale_low, *scale_high;
} Tile;

TARGET static void multiply_block(const Tile *restrict t, int b, int block) {
    const int8_t *x0 = t->x[0] + b * block, *x1 = t->x[1] + b * block, *x2 = t->x[2] + b * block, *x3 = t->x[3] + b * block;
    const int8_t *x4 = t->x[4] + b * block, *x5 = t->x[5] + b * block, *x6 = t->x[6] + b * block, *x7 = t->x[7] + b * block;
    const uint8_t *low = t->w_low + (size_t)b * 16 * (size_t)block, *high = t->w_high + (size_t)b * 16 * (size_t)block;
    Sums s0 = start(t->x_offset[0][b]), s1 = start(t->x_offset[1][b]), s2 = start(t->x_offset[2][b]);
    Sums s3 = start(t->x_offset[3][b]), s4 = start(t->x_offset[4][b]), s5 = start(t->x_offset[5][b]);
    Sums s6 = start(t->x_offset[6][b]), s7 = start(t->x_offset[7][b]);
    for (int k = 0; k < block; k += 4) {
        __m512i w_low = _mm512_load_si512(low + 16 * k), w_high = _mm512_load_si512(high + 16 * k);
        s0 = step(s0, w_low, w_high, x0 + k);
        s1 = step(s1, w_low, w_high, x1 + k);
        s2 = step(s2, w_low, w_high, x2 + k);
        s3 = step(s3, w_low, w_high, x3 + k);
        s4 = step(s4, w_low, w_high, x4 + k);
        s5 = step(s5, w_low, w_high, x5 + k);
        s6 = step(s6, w_low, w_high, x6 + k);
        s7 = step(s7, w_low, w_high, x7 + k);
    }
    __m512 scale = scales(t->scale_low + 32 * b);
    finish(t->low[0], scale, t->x_scale[0][b], s0.low);
    finish(t->low[1], scale, t->x_scale[1][b], s1.low);
    finish(t->low[2], scale, t->x_scale[2][b], s2.low);
    finish(t->low[3], scale, t->x_scale[3][b], s3.low);
    finish(t->low[4], scale, t->x_scale[4][b], s4.low);
    finish(t->low[5], scale, t->x_scale[5][b], s5.low);
    finish(t->low[6], scale, t->x_scale[6][b], s6.low);
    finish(t->low[7], scale, t->x_scale[7][b], s7.low);
    scale = scales(t->scale_high + 32 * b);
    finish(t->high[0], scale, t->x_scale[0][b], s0.high);
    finish(t->high[1], scale, t->x_scale[1][b], s1.high);
    finish(t->high[2], scale, t->x_scale[2][b], s2.high);
    finish(t->high[3], scale, t->x_scale[3][b], s3.high);
    finish(t->high[4], scale, t->x_scale[4][b], s4.high);
    finish(t->high[5], scale, t->x_scale[5][b], s5.high);
    finish(t->high[6], scale, t->x_scale[6][b], s6.high);
    finish(t->high[7], scale, t->x_scale[7][b], s7.high);
}

// All tokens, eight at a time, with the weights of a tile.
TARGET static void multiply_tiles(Tile *tile, float *y, size_t ldy, const Int8Rows *x, int n_tok, int n_blocks, int block,
                                  int n_panels) {
    float waste[LANES] = {0};
    for (int t = 0; t < n_tok; t += 8) {
        for (int i = 0; i < 8; i++) {
            size_t row = (size_t)(t + i < n_tok ? t + i : n_tok - 1);
            tile->low[i] = t + i < n_tok ? y + row * ldy : waste;
            tile->high[i] = t + i < n_tok && n_panels == 2 ? y + row * ldy + LANES : waste;
            tile->x[i] = x->q + row * x->ldq;
            tile->x_scale[i] = x->scale + row * x->lds;
            tile->x_offset[i] = x->offset + row * x->lds;
        }
        for (int b = 0; b < n_blocks; b++) multiply_block(tile, b, block);
    }
}

TARGET static void strip_q8(float *y, size_t ldy, const Strip *w, const Int8Rows *x, int n_tok) {
    size_t second = w->n_panels == 2 ? w->panel_bytes : 0;
    Tile tile = {.w_low = strip_quants(w), .w_high = strip_quants(w) + second, .scale_low = w->panel, .scale_high = w->panel + second};
    multiply_tiles(&tile, y, ldy, x, n_tok, w->n_blocks, w->block, w->n_panels);
}

// ---- Q4 ----

enum { CHUNK = 16 };  // blocks that are unpacked at a time: two panels of them fill half of the first-level cache

// Nibbles to levels + 128: one load gives columns k .. k + 3 (low) and k + 4 .. k + 7 (high) of 16 rows.
TARGET static void unpack(uint8_t *out, const uint8_t *nibbles, int n_blocks) {
    __m512i table = _mm512_xor_si512(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)q4_levels)),
                                     _mm512_set1_epi8(-128));
    __m512i mask = _mm512_set1_epi8(15);
    for (int i = 0; i < n_blocks * 4; i++, nibbles += 64, out += 128) {
        __m512i pair = _mm512_load_si512(nibbles);
        _mm512_store_si512(out, _mm512_shuffle_epi8(table, _mm512_and_si512(pair, mask)));
        _mm512_store_si512(out + 64, _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(pair, 4), mask)));
    }
}

// A chunk of blocks becomes Q8 in the cache, and all tokens meet it before the next.
TARGET static void strip_q4(float *y, size_t ldy, const Strip *w, const Int8Rows *x, int n_tok) {
    _Alignas(64) uint8_t quants[2][CHUNK * LANES * Q4_BLOCK];
    const uint8_t *nibbles = strip_quants(w);
    for (int b = 0; b < w->n_blocks; b += CHUNK) {
        int n = w->n_blocks - b < CHUNK ? w->n_blocks - b : CHUNK;
        for (int p = 0; p < w->n_panels; p++) {
            unpack(quants[p], nibbles + (size_t)p * w->panel_bytes + (size_t)b * LANES * Q4_BLOCK / 2, n);
        }
        size_t second = w->n_panels == 2;
        Tile tile = {.w_low = quants[0], .w_high = quants[second], .scale_low = w->panel + 32 * b,
                     .scale_high = w->panel + second * w->panel_bytes + 32 * b};
        Int8Rows from = {x->q + b * Q4_BLOCK, x->scale + b, x->offset + b, x->ldq, x->lds};
        multiply_tiles(&tile, y, ldy, &from, n_tok, n, Q4_BLOCK, w->n_panels);
    }
}

// ---- floats ----

// The outputs of one token: rows 0..15 and rows 16..31.
typedef struct {
    __m512 low, high;
} Outputs;

INLINE Outputs load(const float *y, size_t step) { return (Outputs){_mm512_loadu_ps(y), _mm512_loadu_ps(y + step)}; }

INLINE void store(float *y, size_t step, Outputs s) {
    _mm512_storeu_ps(y + step, s.high);  // first, for where both are one panel
    _mm512_storeu_ps(y, s.low);
}

INLINE Outputs fma_step(Outputs s, __m512 w_low, __m512 w_high, const float *x) {
    __m512 xk = _mm512_set1_ps(*x);
    return (Outputs){_mm512_fmadd_ps(w_low, xk, s.low), _mm512_fmadd_ps(w_high, xk, s.high)};
}

// Two panels, or one taken twice (step 0), by six tokens.
TARGET static void six_tokens(float *y, size_t ldy, size_t step, const float *low, const float *high, size_t ldw, const float *x,
                              size_t ldx, int n_k) {
    const float *x1 = x + ldx, *x2 = x1 + ldx, *x3 = x2 + ldx, *x4 = x3 + ldx, *x5 = x4 + ldx;
    Outputs s0 = load(y, step), s1 = load(y + ldy, step), s2 = load(y + 2 * ldy, step), s3 = load(y + 3 * ldy, step);
    Outputs s4 = load(y + 4 * ldy, step), s5 = load(y + 5 * ldy, step);
    for (int k = 0; k < n_k; k++, low += ldw, high += ldw) {
        __m512 w_low = _mm512_loadu_ps(low), w_high = _mm512_loadu_ps(high);
        s0 = fma_step(s0, w_low, w_high, x + k);
        s1 = fma_step(s1, w_low, w_high, x1 + k);
        s2 = fma_step(s2, w_low, w_high, x2 + k);
        s3 = fma_step(s3, w_low, w_high, x3 + k);
        s4 = fma_step(s4, w_low, w_high, x4 + k);
        s5 = fma_step(s5, w_low, w_high, x5 + k);
    }
    store(y, step, s0), store(y + ldy, step, s1), store(y + 2 * ldy, step, s2), store(y + 3 * ldy, step, s3);
    store(y + 4 * ldy, step, s4), store(y + 5 * ldy, step, s5);
}

// Four panels by one token: four chains, where one would wait for itself.
TARGET static void four_panels(float *y, const float *w, size_t step, size_t ldw, const float *x, int n_k) {
    Outputs s01 = load(y, LANES), s23 = load(y + 2 * LANES, LANES);
    for (int k = 0; k < n_k; k++, w += ldw) {
        s01 = fma_step(s01, _mm512_loadu_ps(w), _mm512_loadu_ps(w + step), x + k);
        s23 = fma_step(s23, _mm512_loadu_ps(w + 2 * step), _mm512_loadu_ps(w + 3 * step), x + k);
    }
    store(y, LANES, s01);
    store(y + 2 * LANES, LANES, s23);
}

TARGET static void one_panel(float *y, const float *w, size_t ldw, const float *x, int n_k) {
    __m512 s = _mm512_loadu_ps(y);
    for (int k = 0; k < n_k; k++, w += ldw) s = _mm512_fmadd_ps(_mm512_loadu_ps(w), _mm512_set1_ps(x[k]), s);
    _mm512_storeu_ps(y, s);
}

static void strip_f32(float *y, size_t ldy, const StripF32 *w, const float *x, size_t ldx, int n_tok) {
    int t = 0;
    for (; t + 6 <= n_tok; t += 6, y += 6 * ldy, x += 6 * ldx) {
        for (int p = 0; p < w->n_panels; p += 2) {
            const float *low = w->w + (size_t)p * w->step;
            size_t both = p + 1 < w->n_panels;
            six_tokens(y + p * LANES, ldy, both * LANES, low, low + both * w->step, w->ldw, x, ldx, w->n_k);
        }
    }
    for (; t < n_tok; t++, y += ldy, x += ldx) {
        int p = 0;
        for (; p + 4 <= w->n_panels; p += 4) four_panels(y + p * LANES, w->w + (size_t)p * w->step, w->step, w->ldw, x, w->n_k);
        for (; p < w->n_panels; p++) one_panel(y + p * LANES, w->w + (size_t)p * w->step, w->ldw, x, w->n_k);
    }
}

static int supported(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
}

const Kernel kernel_avx512 = {"avx512", supported, strip_f32, strip_q8, strip_q4, &vector_ops};

#endif
