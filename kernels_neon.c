// kernels_neon.c: the products for 64-bit ARM. "dotprod" is for processors with the dot product instructions (ARMv8.2 of 2017
// and later, all of Apple's); "neon" for every other one.
//
//     one register of weights:   row 0: k k+1 k+2 k+3 | row 1 | row 2 | row 3                      4 rows x 4 columns, s8
//     one register of x:         the token's k ... k+15                                            s8
//     sdot by lane i of x:       sum of row r += w[r][k] x[k+4i] + ... + w[r][k+3] x[k+4i+3]       16 products at once
//
//     token 0   [ sums of rows 0..3 ][ rows 4..7 ][ rows 8..11 ][ rows 12..15 ]      A tile is one panel by four tokens:
//     token 1   [ sums of rows 0..3 ][ rows 4..7 ][ rows 8..11 ][ rows 12..15 ]      16 registers of sums, 4 of weights,
//     token 2   [ sums of rows 0..3 ][ rows 4..7 ][ rows 8..11 ][ rows 12..15 ]      4 of x; 24 of the 32.
//     token 3   [ sums of rows 0..3 ][ rows 4..7 ][ rows 8..11 ][ rows 12..15 ]
//
// Both factors are signed here. So a stretch of blocks is first unpacked in the cache, Q8 from u8 = q + 128 and Q4 from its
// nibbles, and then all tokens meet it.

#include "internal.h"

#ifdef __aarch64__

// clang up to 15 shows the dot product only where the whole file is compiled for it; the function's target is enough.
#if defined __clang__ && __clang_major__ < 16 && !defined __ARM_FEATURE_DOTPROD
#define __ARM_FEATURE_DOTPROD 1
#define ONLY_WHERE_FOUND
#endif
#include <arm_neon.h>
#ifdef __linux__
#include <sys/auxv.h>
#endif

#define TARGET
#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define DOTPROD __attribute__((target("dotprod")))
#else
#define DOTPROD __attribute__((target("arch=armv8.2-a+dotprod")))
#endif

#include "vector.h"

enum { COLUMNS = 512 };  // that are unpacked at a time: a panel of them fills a quarter of the first-level cache

// ---- what both have in common ----

// A stretch of blocks of one panel, its quants signed.
typedef struct {
    const int8_t *quants;
    const uint8_t *scales;
    int n_blocks, block;
} Stretch;

// y = fmaf(w_scale * x_scale, sum, y) for 4 rows
INLINE void finish(float *y, const uint8_t *w_scale, float x_scale, int32x4_t sum) {
    uint16_t halves[4];
    memcpy(halves, w_scale, sizeof halves);
    float32x4_t scale = vmulq_n_f32(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(halves))), x_scale);
    vst1q_f32(y, vfmaq_f32(vld1q_f32(y), scale, vcvtq_f32_s32(sum)));
}

INLINE int8x16_t four_of(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

typedef void Unpack(int8_t *out, const uint8_t *quants, int n);

static void unpack_q8(int8_t *out, const uint8_t *quants, int n) {
    for (int i = 0; i < n; i += 16) vst1q_s8(out + i, vreinterpretq_s8_u8(veorq_u8(vld1q_u8(quants + i), vdupq_n_u8(128))));
}

// One load gives columns k .. k + 3 (low nibbles) and k + 4 .. k + 7 (high) of 4 rows.
static void unpack_q4(int8_t *out, const uint8_t *quants, int n) {
    int8x16_t levels = vld1q_s8(q4_levels);
    for (int i = 0; i < n / 2; i += 16) {
        uint8x16_t pair = vld1q_u8(quants + i);
        int8_t *to = out + i / 64 * 128 + i % 64;
        vst1q_s8(to, vqtbl1q_s8(levels, vandq_u8(pair, vdupq_n_u8(15))));
        vst1q_s8(to + 64, vqtbl1q_s8(levels, vshrq_n_u8(pair, 4)));
    }
}

// All tokens by a stretch.
typedef void Tokens(float *y, size_t ldy, const Stretch *s, const Int8Rows *x, int n_tok);

INLINE void multiply_strip(float *y, size_t ldy, const Strip *w, const Int8Rows *x, int n_tok, int bits, Tokens *tokens) {
    int8_t quants[COLUMNS * LANES];
    int most = COLUMNS / w->block;
    for (int b = 0, n; b < w->n_blocks; b += n) {
        n = w->n_blocks - b < most ? w->n_blocks - b : most;
        const Int8Rows from = {x->q + b * w->block, x->scale + b, x->offset + b, x->ldq, x->lds};
        for (int p = 0; p < w->n_panels; p++) {
            const uint8_t *packed = strip_quants(w) + (size_t)p * w->panel_bytes + (size_t)(b * w->block * LANES * bits / 8);
            (bits == 8 ? unpack_q8 : unpack_q4)(quants, packed, n * w->block * LANES);
            const Stretch s = {quants, w->panel + (size_t)p * w->panel_bytes + 32 * b, n, w->block};
            tokens(y + p * LANES, ldy, &s, &from, n_tok);
        }
    }
}

// ---- int8 with the dot product ----

// The sums of one token, rows 0..3 and so on; and four columns of weights.
typedef struct {
    int32x4_t rows0, rows4, rows8, rows12;
} Sums;

typedef struct {
    int8x16_t rows0, rows4, rows8, rows12;
} Columns;

INLINE Columns columns(const int8_t *w) { return (Columns){vld1q_s8(w), vld1q_s8(w + 16), vld1q_s8(w + 32), vld1q_s8(w + 48)}; }

// A macro, because the lane is part of the instruction.
#define DOT(s, w, x, lane)                                                                             \
    ((Sums){vdotq_laneq_s32(s.rows0, w.rows0, x, lane), vdotq_laneq_s32(s.rows4, w.rows4, x, lane),    \
            vdotq_laneq_s32(s.rows8, w.rows8, x, lane), vdotq_laneq_s32(s.rows12, w.rows12, x, lane)})

INLINE void finish_token(float *y, const uint8_t *w_scale, float x_scale, Sums s) {
    finish(y, w_scale, x_scale, s.rows0);
    finish(y + 4, w_scale + 8, x_scale, s.rows4);
    finish(y + 8, w_scale + 16, x_scale, s.rows8);
    finish(y + 12, w_scale + 24, x_scale, s.rows12);
}

#define FOUR_COLUMNS_FOUR_TOKENS(lane)  \
    w = columns(quants + 64 * (lane)); \
    s0 = DOT(s0, w, x0, lane);         \
    s1 = DOT(s1, w, x1, lane);         \
    s2 = DOT(s2, w, x2, lane);         \
    s3 = DOT(s3, w, x3, lane)

DOTPROD static void four_tokens(float *const y[4], const Stretch *s, const int8_t *const q[4], const float *const scale[4]) {
    const int8_t *quants = s->quants;
    for (int b = 0; b < s->n_blocks; b++) {
        Sums s0 = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)}, s1 = s0, s2 = s0, s3 = s0;
        Columns w;
        int k = b * s->block, end = k + s->block;
        for (; k + 16 <= end; k += 16, quants += 256) {
            int8x16_t x0 = vld1q_s8(q[0] + k), x1 = vld1q_s8(q[1] + k), x2 = vld1q_s8(q[2] + k), x3 = vld1q_s8(q[3] + k);
            FOUR_COLUMNS_FOUR_TOKENS(0);
            FOUR_COLUMNS_FOUR_TOKENS(1);
            FOUR_COLUMNS_FOUR_TOKENS(2);
            FOUR_COLUMNS_FOUR_TOKENS(3);
        }
        for (; k < end; k += 4, quants += 64) {
            int8x16_t x0 = four_of(q[0] + k), x1 = four_of(q[1] + k), x2 = four_of(q[2] + k), x3 = four_of(q[3] + k);
            FOUR_COLUMNS_FOUR_TOKENS(0);
        }
        finish_token(y[0], s->scales + 32 * b, scale[0][b], s0);
        finish_token(y[1], s->scales + 32 * b, scale[1][b], s1);
        finish_token(y[2], s->scales + 32 * b, scale[2][b], s2);
        finish_token(y[3], s->scales + 32 * b, scale[3][b], s3);
    }
}

// Two chains for each register of outputs: one would wait for itself.
DOTPROD static void one_token(float *y, const Stretch *s, const int8_t *q, const float *scale) {
    const int8_t *quants = s->quants;
    for (int b = 0; b < s->n_blocks; b++) {
        Sums even = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)}, odd = even;
        int k = b * s->block, end = k + s->block;
        for (; k + 8 <= end; k += 8, quants += 128) {
            Columns w = columns(quants), w4 = columns(quants + 64);
            even = DOT(even, w, four_of(q + k), 0);
            odd = DOT(odd, w4, four_of(q + k + 4), 0);
        }
        for (; k < end; k += 4, quants += 64) {
            Columns w = columns(quants);
            even = DOT(even, w, four_of(q + k), 0);
        }
        const Sums sums = {vaddq_s32(even.rows0, odd.rows0), vaddq_s32(even.rows4, odd.rows4), vaddq_s32(even.rows8, odd.rows8),
                           vaddq_s32(even.rows12, odd.rows12)};
        finish_token(y, s->scales + 32 * b, scale[b], sums);
    }
}

// Where fewer than four tokens are left, the last one is taken again, and what becomes of it goes to waste.
static void tokens_dotprod(float *y, size_t ldy, const Stretch *s, const Int8Rows *x, int n_tok) {
    float waste[LANES] = {0}, *out[4];
    const int8_t *q[4];
    const float *scale[4];
    for (int t = 0; t < n_tok; t += 4) {
        for (int i = 0; i < 4; i++) {
            size_t row = (size_t)(t + i < n_tok ? t + i : n_tok - 1);
            out[i] = t + i < n_tok ? y + row * ldy : waste;
            q[i] = x->q + row * x->ldq;
            scale[i] = x->scale + row * x->lds;
        }
        if (n_tok - t == 1) {
            one_token(out[0], s, q[0], scale[0]);
        } else {
            four_tokens(out, s, q, scale);
        }
    }
}

static void strip_q8_dotprod(float *y, size_t ldy, const Strip *w, const Int8Rows *x, int n_tok) {
    multiply_strip(y, ldy, w, x, n_tok, 8, tokens_dotprod);
}

static void strip_q4_dotprod(float *y, size_t ldy, const Strip *w, const Int8Rows *x, int n_tok) {
    multiply_strip(y, ldy, w, x, n_tok, 4, tokens_dotprod);
}

// ---- int8 without it ----
//
//     smull, smlal:   16-bit products of 2 rows x 4 columns, and of the next 4 columns added: 2 * 128 * 127 still fits
//     sadalp:         neighbours added up in 32 bits: two sums for each row, which meet at the end of the block

// The half sums of one token and 4 rows.
typedef struct {
    int32x4_t low, high;
} Halves;

INLINE Halves add_products(Halves s, int16x8_t low, int16x8_t high) {
    return (Halves){vpadalq_s16(s.low, low), vpadalq_s16(s.high, high)};
}

// Four columns of 4 rows, or eight.
INLINE Halves four_columns(Halves s, int8x16_t w, int8x16_t x) {
    return add_products(s, vmull_s8(vget_low_s8(w), vget_low_s8(x)), vmull_high_s8(w, x));
}

INLINE Halves eight_columns(Halves s, int8x16_t w, int8x16_t w4, int8x16_t x, int8x16_t x4) {
    int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x)), high = vmull_high_s8(w, x);
    return add_products(s, vmlal_s8(low, vget_low_s8(w4), vget_low_s8(x4)), vmlal_high_s8(high, w4, x4));
}

// 4 rows by two tokens, a block; row: of the four in the panel.
INLINE void two_tokens(float *y0, float *y1, const Stretch *s, int b, int row, const int8_t *q0, const int8_t *q1, float scale0,
                       float scale1) {
    const int8_t *w = s->quants + (b * s->block * LANES + row * 4);
    Halves s0 = {vdupq_n_s32(0), vdupq_n_s32(0)}, s1 = s0;
    int k = 0;
    for (; k + 8 <= s->block; k += 8) {
        int8x16_t now = vld1q_s8(w + LANES * k), next = vld1q_s8(w + LANES * k + 64);
        s0 = eight_columns(s0, now, next, four_of(q0 + k), four_of(q0 + k + 4));
        s1 = eight_columns(s1, now, next, four_of(q1 + k), four_of(q1 + k + 4));
    }
    if (k < s->block) {
        int8x16_t now = vld1q_s8(w + LANES * k);
        s0 = four_columns(s0, now, four_of(q0 + k));
        s1 = four_columns(s1, now, four_of(q1 + k));
    }
    finish(y0 + row, s->scales + 32 * b + 2 * row, scale0, vpaddq_s32(s0.low, s0.high));
    finish(y1 + row, s->scales + 32 * b + 2 * row, scale1, vpaddq_s32(s1.low, s1.high));
}

static void tokens_neon(float *y, size_t ldy, const Stretch *s, const Int8Rows *x, int n_tok) {
    float waste[LANES] = {0};
    for (int t = 0; t < n_tok; t += 2) {
        size_t first = (size_t)t, second = t + 1 < n_tok ? first + 1 : first;
        float *y0 = y + first * ldy, *y1 = second > first ? y0 + ldy : waste;
        const int8_t *q0 = x->q + first * x->ldq, *q1 = x->q + second * x->ldq;
        for (int b = 0; b < s->n_blocks; b++) {
            float scale0 = x->scale[first * x->lds + (size_t)b], scale1 = x->scale[second * x->lds + (size_t)b];
            for (int row = 0; row < LANES; row += 4) {
                two_tokens(y0, y1, s, b, row, q0 + b * s->block, q1 + b * s->block, scale0, scale1);
            }
        }
    }
}

static void strip_q8_neon(float *y, size_t ldy, const Strip *w, const Int8Rows *x, int n_tok) {
    multiply_strip(y, ldy, w, x, n_tok, 8, tokens_neon);
}

static void strip_q4_neon(float *y, size_t ldy, const Strip *w, const Int8Rows *x, int n_tok) {
    multiply_strip(y, ldy, w, x, n_tok, 4, tokens_neon);
}

// ---- floats ----

typedef struct {
    float32x4_t rows0, rows4, rows8, rows12;
} Outputs;

INLINE Outputs load(const float *y) { return (Outputs){vld1q_f32(y), vld1q_f32(y + 4), vld1q_f32(y + 8), vld1q_f32(y + 12)}; }

INLINE void store(float *y, Outputs s) {
    vst1q_f32(y, s.rows0);
    vst1q_f32(y + 4, s.rows4);
    vst1q_f32(y + 8, s.rows8);
    vst1q_f32(y + 12, s.rows12);
}

INLINE Outputs fma_step(Outputs s, Outputs w, float x) {
    return (Outputs){vfmaq_n_f32(s.rows0, w.rows0, x), vfmaq_n_f32(s.rows4, w.rows4, x), vfmaq_n_f32(s.rows8, w.rows8, x),
                     vfmaq_n_f32(s.rows12, w.rows12, x)};
}

// One panel by four tokens.
static void four_tokens_f32(float *y, size_t ldy, const float *w, size_t ldw, const float *x, size_t ldx, int n_k) {
    const float *x1 = x + ldx, *x2 = x1 + ldx, *x3 = x2 + ldx;
    Outputs s0 = load(y), s1 = load(y + ldy), s2 = load(y + 2 * ldy), s3 = load(y + 3 * ldy);
    for (int k = 0; k < n_k; k++, w += ldw) {
        Outputs column = load(w);
        s0 = fma_step(s0, column, x[k]);
        s1 = fma_step(s1, column, x1[k]);
        s2 = fma_step(s2, column, x2[k]);
        s3 = fma_step(s3, column, x3[k]);
    }
    store(y, s0), store(y + ldy, s1), store(y + 2 * ldy, s2), store(y + 3 * ldy, s3);
}

// Four panels by one token: sixteen chains, where four would wait for themselves.
static void four_panels(float *y, const float *w, size_t step, size_t ldw, const float *x, int n_k) {
    Outputs s0 = load(y), s1 = load(y + LANES), s2 = load(y + 2 * LANES), s3 = load(y + 3 * LANES);
    for (int k = 0; k < n_k; k++, w += ldw) {
        s0 = fma_step(s0, load(w), x[k]);
        s1 = fma_step(s1, load(w + step), x[k]);
        s2 = fma_step(s2, load(w + 2 * step), x[k]);
        s3 = fma_step(s3, load(w + 3 * step), x[k]);
    }
    store(y, s0), store(y + LANES, s1), store(y + 2 * LANES, s2), store(y + 3 * LANES, s3);
}

static void one_panel(float *y, const float *w, size_t ldw, const float *x, int n_k) {
    Outputs s = load(y);
    for (int k = 0; k < n_k; k++, w += ldw) s = fma_step(s, load(w), x[k]);
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

// ---- which ----

static int always(void) { return 1; }

static int has_dotprod(void) {
#if defined __ARM_FEATURE_DOTPROD && !defined ONLY_WHERE_FOUND || defined __APPLE__
    return 1;
#elif defined __linux__
    return getauxval(AT_HWCAP) >> 20 & 1;  // HWCAP_ASIMDDP
#else
    return 0;
#endif
}

const Kernel kernel_dotprod = {"dotprod", has_dotprod, strip_f32, strip_q8_dotprod, strip_q4_dotprod, &vector_ops};
const Kernel kernel_neon = {"neon", always, strip_f32, strip_q8_neon, strip_q4_neon, &vector_ops};

#endif
