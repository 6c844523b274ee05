// kernels_avx2.c: the products for x86-64 with AVX2 and FMA.
//
//     one register of weights:   row 0: k k+1 k+2 k+3 | row 1: k k+1 k+2 k+3 | ... | row 7         8 rows x 4 columns, u8
//       its even columns:        row 0: k     k+2     | row 1: k     k+2     | ... | row 7         16 bits each
//       its odd columns:         row 0: k+1   k+3     | row 1: k+1   k+3     | ... | row 7         16 bits each
//     two of x:                  the token's k k+2, eight times over, and its k+1 k+3              16 bits each
//     vpmaddwd:                  w[r][k] x[k] + w[r][k+2] x[k+2]                                   exact in 32 bits
//
//     token 0   [ sums of rows 0..7 ][ rows 8..15 ]     A tile is one panel by four tokens: 8 registers of sums, 4 of
//     token 1   [ sums of rows 0..7 ][ rows 8..15 ]     weights, 2 of x, 1 for products; 15 of the 16.
//     token 2   [ sums of rows 0..7 ][ rows 8..15 ]
//     token 3   [ sums of rows 0..7 ][ rows 8..15 ]
//
// vpmaddubsw would multiply bytes, but its sums of two stop at 16 bits, which unsigned weights exceed. Weights are stored as
// u8 = q + 128; the sums start at -128 times the sum of the block's x, which takes the 128 out again.

#include "internal.h"

#ifdef __x86_64__

#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("avx2,fma,f16c")))
#define INLINE TARGET static inline __attribute__((always_inline))

#include "vector.h"

// ---- int8 ----

enum { COLUMNS = 256 };  // that are widened, and unpacked from Q4, at a time

// Columns of a group of tokens as 16-bit numbers, two in each int32_t: k k+2 of each token, and k+1 k+3.
typedef struct {
    _Alignas(32) int32_t even[COLUMNS / 4 * TOKENS], odd[COLUMNS / 4 * TOKENS];
} Wide;

// n: bytes of a group's columns, a multiple of 4.
TARGET static void widen_group(Wide *to, const int8_t *x, int n) {
    int k = 0;
    for (; k + 32 <= n; k += 32) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(x + k));
        _mm256_store_si256((__m256i *)(void *)(to->even + k / 4), _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8));
        _mm256_store_si256((__m256i *)(void *)(to->odd + k / 4), _mm256_srai_epi16(v, 8));
    }
    for (; k < n; k += 4) {
        to->even[k / 4] = (int32_t)((uint32_t)x[k + 2] << 16 | (uint16_t)x[k]);
        to->odd[k / 4] = (int32_t)((uint32_t)x[k + 3] << 16 | (uint16_t)x[k + 1]);
    }
}

// The sums of one token: rows 0..7 and rows 8..15.
typedef struct {
    __m256i low, high;
} Sums;

typedef struct {
    __m256i low_even, low_odd, high_even, high_odd;
} Weights;

INLINE Sums start(int32_t offset) { return (Sums){_mm256_set1_epi32(offset), _mm256_set1_epi32(offset)}; }

INLINE Weights columns(const uint8_t *w) {
    __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)w), mask = _mm256_set1_epi16(255);
    __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(w + 32));
    return (Weights){_mm256_and_si256(low, mask), _mm256_srli_epi16(low, 8), _mm256_and_si256(high, mask), _mm256_srli_epi16(high, 8)};
}

INLINE Sums step(Sums s, Weights w, const Wide *x, int i) {
    __m256i xk = _mm256_set1_epi32(x->even[i]);
    s.low = _mm256_add_epi32(s.low, _mm256_madd_epi16(w.low_even, xk));
    s.high = _mm256_add_epi32(s.high, _mm256_madd_epi16(w.high_even, xk));
    xk = _mm256_set1_epi32(x->odd[i]);
    s.low = _mm256_add_epi32(s.low, _mm256_madd_epi16(w.low_odd, xk));
    s.high = _mm256_add_epi32(s.high, _mm256_madd_epi16(w.high_odd, xk));
    return s;
}

// y = fmaf(w_scale * x_scale, sum, y) for 16 rows
INLINE void finish(float *y, const uint8_t *w_scale, float x_scale, Sums s) {
    const __m128i *scale = (const __m128i *)(const void *)w_scale;
    __m256 low = _mm256_mul_ps(_mm256_cvtph_ps(_mm_loadu_si128(scale)), _mm256_set1_ps(x_scale));
    __m256 high = _mm256_mul_ps(_mm256_cvtph_ps(_mm_loadu_si128(scale + 1)), _mm256_set1_ps(x_scale));
    _mm256_storeu_ps(y, _mm256_fmadd_ps(low, _mm256_cvtepi32_ps(s.low), _mm256_loadu_ps(y)));
    _mm256_storeu_ps(y + 8, _mm256_fmadd_ps(high, _mm256_cvtepi32_ps(s.high), _mm256_loadu_ps(y + 8)));
}

// A stretch of blocks of one panel, and what it meets.
typedef struct {
    const uint8_t *quants, *scales;
    int n_blocks, block;
} Stretch;

// Four tokens of a group: where their outputs go, their scales and offsets (n_blocks, group), and the group's columns.
typedef struct {
    float *y[4];
    const float *scale;
    const int32_t *offset;
    const Wide *x;
    int first;  // of the four in its group
} Tile;

TARGET static void four_tokens(const Tile *restrict t, const Stretch *s) {
    const uint8_t *w = s->quants;
    for (int b = 0, i = t->first; b < s->n_blocks; b++) {
        const int32_t *offset = t->offset + b * TOKENS;
        const float *x_scale = t->scale + b * TOKENS;
        Sums s0 = start(offset[0]), s1 = start(offset[1]), s2 = start(offset[2]), s3 = start(offset[3]);
        for (int k = 0; k < s->block; k += 4, i += TOKENS, w += 64) {
            Weights four = columns(w);
            s0 = step(s0, four, t->x, i);
            s1 = step(s1, four, t->x, i + 1);
            s2 = step(s2, four, t->x, i + 2);
            s3 = step(s3, four, t->x, i + 3);
        }
        const uint8_t *scale = s->scales + 32 * b;
        finish(t->y[0], scale, x_scale[0], s0);
        finish(t->y[1], scale, x_scale[1], s1);
        finish(t->y[2], scale, x_scale[2], s2);
        finish(t->y[3], scale, x_scale[3], s3);
    }
}

// As many chains as there are registers of weights: each column's even and odd halves have their own.
TARGET static void one_token(float *y, const Stretch *s, const Wide *x, const float *x_scale, const int32_t *offset) {
    const uint8_t *w = s->quants;
    for (int b = 0, i = 0; b < s->n_blocks; b++) {
        Sums sums = start(offset[b]);
        for (int end = i + s->block / 4; i < end; i++, w += 64) sums = step(sums, columns(w), x, i);
        finish(y, s->scales + 32 * b, x_scale[b], sums);
    }
}

// A group's tokens, four at a time.
TARGET static void multiply_group(float *y, size_t ldy, const Stretch *s, const Wide *wide, const float *scale, const int32_t *offset,
                                  int n_tok) {
    for (int first = 0; first < n_tok; first += 4) {
        Tile tile = {{NULL, NULL, NULL, NULL}, scale + first, offset + first, wide, first};
        for (int i = 0; i < 4; i++) tile.y[i] = y + (size_t)(first + i) * ldy;
        four_tokens(&tile, s);
    }
}

// All tokens by a stretch of one panel, or of two.
TARGET static void multiply_stretch(float *y, size_t ldy, const Stretch panels[2], int n_panels, const Int8Rows *x, int n_tok) {
    Wide wide;
    size_t group = 0;
    for (int t = 0; t < n_tok; t += x->group, group++) {
        const float *scale = x->scale + group * x->n_scales;
        const int32_t *offset = x->offset + group * x->n_scales;
        widen_group(&wide, x->q + group * x->q_bytes, panels->n_blocks * panels->block * x->group);
        for (int p = 0; p < n_panels; p++) {
            float *out = y + (size_t)t * ldy + p * LANES;
            if (x->group == 1) {
                one_token(out, &panels[p], &wide, scale, offset);
            } else {
                multiply_group(out, ldy, &panels[p], &wide, scale, offset, n_tok - t < TOKENS ? n_tok - t : TOKENS);
            }
        }
    }
}

// The rows from block b on.
TARGET static Int8Rows rows_from(const Int8Rows *x, int b, int block) {
    size_t first = (size_t)b * (size_t)x->group;
    return (Int8Rows){x->q + first * (size_t)block, x->scale + first, x->offset + first, x->q_bytes, x->n_scales, x->group};
}

TARGET static void strip_q8(float *y, size_t ldy, const Strip *w, const Int8Rows *x, int n_tok) {
    int most = COLUMNS / w->block;
    start_rows(y, ldy, w->start, round_up(n_tok, x->group));
    for (int b = 0, n; b < w->n_blocks; b += n) {
        n = w->n_blocks - b < most ? w->n_blocks - b : most;
        const uint8_t *quants = strip_quants(w) + (size_t)(b * w->block) * LANES, *scales = w->panel + 32 * b;
        const Stretch panels[2] = {{quants, scales, n, w->block}, {quants + w->panel_bytes, scales + w->panel_bytes, n, w->block}};
        const Int8Rows from = rows_from(x, b, w->block);
        multiply_stretch(y, ldy, panels, w->n_panels, &from, n_tok);
    }
}

// ---- Q4 ----

INLINE __m256i low_nibbles(__m256i pair) { return _mm256_and_si256(pair, _mm256_set1_epi8(15)); }

INLINE __m256i high_nibbles(__m256i pair) { return low_nibbles(_mm256_srli_epi16(pair, 4)); }

INLINE __m256i levels(void) { return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)q4_levels)); }

// Nibbles to levels + 128: one load gives columns k .. k + 3 (low) and k + 4 .. k + 7 (high) of 8 rows.
TARGET static void unpack(uint8_t *out, const uint8_t *nibbles, int n_blocks) {
    __m256i table = _mm256_xor_si256(levels(), _mm256_set1_epi8(-128));
    for (int i = 0; i < n_blocks * 8; i++, nibbles += 32) {
        __m256i pair = _mm256_loadu_si256((const __m256i *)(const void *)nibbles);
        uint8_t *to = out + i / 2 * 128 + i % 2 * 32;
        _mm256_store_si256((__m256i *)(void *)to, _mm256_shuffle_epi8(table, low_nibbles(pair)));
        _mm256_store_si256((__m256i *)(void *)(to + 64), _mm256_shuffle_epi8(table, high_nibbles(pair)));
    }
}

// Levels are signed and never -128, so that x may give them its sign, and |x| is the unsigned factor of vpmaddubsw:
// 2 * 127 * 127 fits 16 bits.
INLINE __m256i signed_step(__m256i sum, __m256i level, __m256i x) {
    __m256i products = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(level, x));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(products, _mm256_set1_epi16(1)));
}

INLINE Sums step_q4(Sums s, __m256i table, const uint8_t *nibbles, const int8_t *x) {
    int32_t four[2];
    memcpy(four, x, sizeof four);
    __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)nibbles), x0 = _mm256_set1_epi32(four[0]);
    __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(nibbles + 32)), x4 = _mm256_set1_epi32(four[1]);
    s.low = signed_step(s.low, _mm256_shuffle_epi8(table, low_nibbles(low)), x0);
    s.high = signed_step(s.high, _mm256_shuffle_epi8(table, low_nibbles(high)), x0);
    s.low = signed_step(s.low, _mm256_shuffle_epi8(table, high_nibbles(low)), x4);
    s.high = signed_step(s.high, _mm256_shuffle_epi8(table, high_nibbles(high)), x4);
    return s;
}

// One token by one panel, straight from the nibbles.
TARGET static void one_token_q4(float *y, const uint8_t *scales, const uint8_t *nibbles, const Int8Rows *x, int n_blocks) {
    __m256i table = levels();
    for (int b = 0; b < n_blocks; b++) {
        Sums s = start(0);
        for (int k = b * Q4_BLOCK; k < (b + 1) * Q4_BLOCK; k += 8) s = step_q4(s, table, nibbles + 8 * k, x->q + k);
        finish(y, scales + 32 * b, x->scale[b], s);
    }
}

// A stretch of blocks becomes Q8 in the cache, and all tokens meet it before the next.
TARGET static void strip_q4(float *y, size_t ldy, const Strip *w, const Int8Rows *x, int n_tok) {
    _Alignas(64) uint8_t quants[2][COLUMNS * LANES];
    const uint8_t *nibbles = strip_quants(w);
    start_rows(y, ldy, w->start, round_up(n_tok, x->group));
    for (int p = 0; x->group == 1 && p < w->n_panels; p++) {
        one_token_q4(y + p * LANES, w->panel + (size_t)p * w->panel_bytes, nibbles + (size_t)p * w->panel_bytes, x, w->n_blocks);
    }
    for (int b = 0, n; x->group > 1 && b < w->n_blocks; b += n) {
        n = w->n_blocks - b < COLUMNS / Q4_BLOCK ? w->n_blocks - b : COLUMNS / Q4_BLOCK;
        const uint8_t *from = nibbles + (size_t)b * LANES * Q4_BLOCK / 2, *scales = w->panel + 32 * b;
        for (int p = 0; p < w->n_panels; p++) unpack(quants[p], from + (size_t)p * w->panel_bytes, n);
        const Stretch panels[2] = {{quants[0], scales, n, Q4_BLOCK}, {quants[1], scales + w->panel_bytes, n, Q4_BLOCK}};
        const Int8Rows rows = rows_from(x, b, Q4_BLOCK);
        multiply_stretch(y, ldy, panels, w->n_panels, &rows, n_tok);
    }
}

// ---- floats ----

// The outputs of one token: rows 0..7 and rows 8..15.
typedef struct {
    __m256 low, high;
} Outputs;

INLINE Outputs load(const float *y) { return (Outputs){_mm256_loadu_ps(y), _mm256_loadu_ps(y + 8)}; }

INLINE void store(float *y, Outputs s) {
    _mm256_storeu_ps(y, s.low);
    _mm256_storeu_ps(y + 8, s.high);
}

INLINE Outputs fma_step(Outputs s, Outputs w, __m256 xk) {
    return (Outputs){_mm256_fmadd_ps(w.low, xk, s.low), _mm256_fmadd_ps(w.high, xk, s.high)};
}

// One panel by four tokens.
TARGET static void four_tokens_f32(float *y, size_t ldy, const float *w, size_t ldw, const float *x, size_t ldx, int n_k) {
    const float *x1 = x + ldx, *x2 = x1 + ldx, *x3 = x2 + ldx;
    Outputs s0 = load(y), s1 = load(y + ldy), s2 = load(y + 2 * ldy), s3 = load(y + 3 * ldy);
    for (int k = 0; k < n_k; k++, w += ldw) {
        Outputs column = load(w);
        s0 = fma_step(s0, column, _mm256_broadcast_ss(x + k));
        s1 = fma_step(s1, column, _mm256_broadcast_ss(x1 + k));
        s2 = fma_step(s2, column, _mm256_broadcast_ss(x2 + k));
        s3 = fma_step(s3, column, _mm256_broadcast_ss(x3 + k));
    }
    store(y, s0), store(y + ldy, s1), store(y + 2 * ldy, s2), store(y + 3 * ldy, s3);
}

// Four panels by one token: eight chains, where two would wait for themselves.
TARGET static void four_panels(float *y, const float *w, size_t step, size_t ldw, const float *x, int n_k) {
    Outputs s0 = load(y), s1 = load(y + LANES), s2 = load(y + 2 * LANES), s3 = load(y + 3 * LANES);
    for (int k = 0; k < n_k; k++, w += ldw) {
        __m256 xk = _mm256_broadcast_ss(x + k);
        s0 = fma_step(s0, load(w), xk);
        s1 = fma_step(s1, load(w + step), xk);
        s2 = fma_step(s2, load(w + 2 * step), xk);
        s3 = fma_step(s3, load(w + 3 * step), xk);
    }
    store(y, s0), store(y + LANES, s1), store(y + 2 * LANES, s2), store(y + 3 * LANES, s3);
}

TARGET static void one_panel(float *y, const float *w, size_t ldw, const float *x, int n_k) {
    Outputs s = load(y);
    for (int k = 0; k < n_k; k++, w += ldw) s = fma_step(s, load(w), _mm256_broadcast_ss(x + k));
    store(y, s);
}

static void strip_f32(float *y, size_t ldy, const StripF32 *w, const float *x, size_t ldx, int n_tok) {
    int t = 0;
    for (; t + 4 <= n_tok; t += 4, y += 4 * ldy, x += 4 * ldx) {
        for (int p = 0; p < w->n_panels; p++) four_tokens_f32(y + p * LANES, ldy, w->w + (size_t)p * w->step, w->ldw, x, ldx, w->n_k);
    }
    for (; t < n_tok; t++, y += ldy, x += ldx) {
        int p = 0;
        for (; p + 4 <= w->n_panels; p += 4) four_panels(y + p * LANES, w->w + (size_t)p * w->step, w->step, w->ldw, x, w->n_k);
        for (; p < w->n_panels; p++) one_panel(y + p * LANES, w->w + (size_t)p * w->step, w->ldw, x, w->n_k);
    }
}

// Every processor with AVX2 has F16C, and clang has no word for it here.
static int supported(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

const Kernel kernel_avx2 = {"avx2", supported, strip_f32, strip_q8, strip_q4, &vector_ops, NULL};

#endif
