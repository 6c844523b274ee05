// kernels_neon.c: the products for 64-bit ARM. "i8mm" is for processors with the matrix product of 8 bits (most since 2020,
// Apple's since M2), "dotprod" for those with the dot product (ARMv8.2 of 2017 and later), "neon" for every other one.
//
//     one register of weights:   row 0: k k+1 k+2 k+3 | row 1 | row 2 | row 3                      4 rows x 4 columns, s8
//     one register of x:         token 0: k k+1 k+2 k+3 | token 1 | token 2 | token 3              4 tokens x 4 columns, s8
//     sdot by lane t of x:       sum of row r += w[r][k] x[t][k] + ... + w[r][k+3] x[t][k+3]       16 products at once
//
//     token 0   [ sums of rows 0..3 ][ rows 4..7 ][ rows 8..11 ][ rows 12..15 ]      A tile is one panel by four tokens:
//     token 1   [ sums of rows 0..3 ][ rows 4..7 ][ rows 8..11 ][ rows 12..15 ]      16 registers of sums, 4 of weights,
//     token 2   [ sums of rows 0..3 ][ rows 4..7 ][ rows 8..11 ][ rows 12..15 ]      1 of x; 21 of the 32.
//     token 3   [ sums of rows 0..3 ][ rows 4..7 ][ rows 8..11 ][ rows 12..15 ]
//
// Both factors are signed here. So a stretch of blocks is first unpacked in the cache, Q8 from u8 = q + 128 and Q4 from its
// nibbles, and then all tokens meet it.

#include "internal.h"

#ifdef __aarch64__

// What the whole file is compiled for, every processor that runs it has.
#ifdef __ARM_FEATURE_DOTPROD
#define ALWAYS_DOTPROD 1
#endif
#ifdef __ARM_FEATURE_MATMUL_INT8
#define ALWAYS_I8MM 1
#endif
// clang up to 15 shows these instructions only where the whole file is compiled for them; the function's target is enough.
#if defined __clang__ && __clang_major__ < 16
#undef __ARM_FEATURE_DOTPROD
#undef __ARM_FEATURE_MATMUL_INT8
#define __ARM_FEATURE_DOTPROD 1
#define __ARM_FEATURE_MATMUL_INT8 1
#endif
#include <arm_neon.h>
#ifdef __linux__
#include <sys/auxv.h>
#elif defined __APPLE__
#include <sys/sysctl.h>
#endif

#define TARGET
#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define DOTPROD __attribute__((target("dotprod")))
#define I8MM __attribute__((target("i8mm")))
#else
#define DOTPROD __attribute__((target("arch=armv8.2-a+dotprod")))
#define I8MM __attribute__((target("arch=armv8.2-a+i8mm")))
#endif

#include "vector.h"

enum { COLUMNS = 512 };  // that are unpacked at a time: a panel of them fills a quarter of the first-level cache

// ---- what all have in common ----

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

// For the matrix product: eight columns of a row side by side, where four of four rows were.
static void pair_columns(int8_t *quants, int n) {
    for (int8_t *q = quants; q < quants + n; q += 128) {
        int32x4_t k0[4], k4[4];
        for (int i = 0; i < 4; i++) {
            k0[i] = vreinterpretq_s32_s8(vld1q_s8(q + 16 * i));
            k4[i] = vreinterpretq_s32_s8(vld1q_s8(q + 16 * i + 64));
        }
        for (int i = 0; i < 4; i++) {
            vst1q_s8(q + 32 * i, vreinterpretq_s8_s32(vzip1q_s32(k0[i], k4[i])));
            vst1q_s8(q + 32 * i + 16, vreinterpretq_s8_s32(vzip2q_s32(k0[i], k4[i])));
        }
    }
}

// A group of which n tokens are there, by a stretch; x, its scales as in Int8Rows.
typedef void Group(float *y, size_t ldy, const Stretch *s, const int8_t *x, const float *x_scale, int n);

// What is one processor's own: the product for one token alone, and for groups; whether groups want columns in pairs.
typedef struct {
    Group *one, *eight;
    int in_pairs;
} Products;

// All tokens by a stretch; b: its first block.
INLINE void multiply_stretch(float *y, size_t ldy, const Stretch *s, int b, const Int8Rows *x, int n_tok, const Products *own) {
    size_t first = (size_t)b * (size_t)x->group, i = 0;
    for (int t = 0; t < n_tok; t += x->group, i++) {
        const int8_t *q = x->q + i * x->q_bytes + first * (size_t)s->block;
        int n = n_tok - t < x->group ? n_tok - t : x->group;
        (x->group == 1 ? own->one : own->eight)(y + (size_t)t * ldy, ldy, s, q, x->scale + i * x->n_scales + first, n);
    }
}

INLINE void multiply_strip(float *y, size_t ldy, const Strip *w, const Int8Rows *x, int n_tok, int bits, const Products *own) {
    int8_t quants[COLUMNS * LANES];
    int most = COLUMNS / w->block;
    start_rows(y, ldy, w->start, round_up(n_tok, x->group));
    for (int b = 0, n; b < w->n_blocks; b += n) {
        n = w->n_blocks - b < most ? w->n_blocks - b : most;
        for (int p = 0; p < w->n_panels; p++) {
            size_t panel = (size_t)p * w->panel_bytes, from = (size_t)(b * w->block) * LANES * (size_t)bits / 8;
            (bits == 8 ? unpack_q8 : unpack_q4)(quants, strip_quants(w) + panel + from, n * w->block * LANES);
            if (own->in_pairs && x->group > 1) pair_columns(quants, n * w->block * LANES);
            const Stretch s = {quants, w->panel + panel + 32 * b, n, w->block};
            multiply_stretch(y + p * LANES, ldy, &s, b, x, n_tok, own);
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

// Half a group.
DOTPROD static void four_tokens(float *y, size_t ldy, const Stretch *s, const int8_t *x, const float *x_scale) {
    const int8_t *quants = s->quants;
    for (int b = 0; b < s->n_blocks; b++, x_scale += TOKENS) {
        Sums s0 = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)}, s1 = s0, s2 = s0, s3 = s0;
        for (const int8_t *end = quants + s->block * LANES; quants < end; quants += 64, x += 4 * TOKENS) {
            Columns w = columns(quants);
            int8x16_t xk = vld1q_s8(x);
            s0 = DOT(s0, w, xk, 0);
            s1 = DOT(s1, w, xk, 1);
            s2 = DOT(s2, w, xk, 2);
            s3 = DOT(s3, w, xk, 3);
        }
        finish_token(y, s->scales + 32 * b, x_scale[0], s0);
        finish_token(y + ldy, s->scales + 32 * b, x_scale[1], s1);
        finish_token(y + 2 * ldy, s->scales + 32 * b, x_scale[2], s2);
        finish_token(y + 3 * ldy, s->scales + 32 * b, x_scale[3], s3);
    }
}

static void eight_dotprod(float *y, size_t ldy, const Stretch *s, const int8_t *x, const float *x_scale, int n) {
    four_tokens(y, ldy, s, x, x_scale);
    if (n > 4) four_tokens(y + 4 * ldy, ldy, s, x + 16, x_scale + 4);
}

// Here a register of x is 16 columns. Two chains for each register of outputs: one would wait for itself.
DOTPROD static void one_dotprod(float *y, size_t ldy, const Stretch *s, const int8_t *x, const float *x_scale, int n) {
    const int8_t *quants = s->quants;
    (void)ldy, (void)n;
    for (int b = 0; b < s->n_blocks; b++) {
        Sums even = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)}, odd = even;
        for (int k = 0; k < s->block; k += 16, quants += 256, x += 16) {
            int8x16_t xk = vld1q_s8(x);
            Columns w0 = columns(quants), w4 = columns(quants + 64), w8 = columns(quants + 128), w12 = columns(quants + 192);
            even = DOT(even, w0, xk, 0);
            odd = DOT(odd, w4, xk, 1);
            even = DOT(even, w8, xk, 2);
            odd = DOT(odd, w12, xk, 3);
        }
        const Sums sums = {vaddq_s32(even.rows0, odd.rows0), vaddq_s32(even.rows4, odd.rows4), vaddq_s32(even.rows8, odd.rows8),
                           vaddq_s32(even.rows12, odd.rows12)};
        finish_token(y, s->scales + 32 * b, x_scale[b], sums);
    }
}

static const Products dotprod = {one_dotprod, eight_dotprod, 0};

static void strip_q8_dotprod(float *y, size_t ldy, const Strip *w, const Int8Rows *x, int n_tok) {
    multiply_strip(y, ldy, w, x, n_tok, 8, &dotprod);
}

static void strip_q4_dotprod(float *y, size_t ldy, const Strip *w, const Int8Rows *x, int n_tok) {
    multiply_strip(y, ldy, w, x, n_tok, 4, &dotprod);
}

// ---- int8 with the matrix product ----
//
//     one register of weights:   row 0: k .. k+7 | row 1: k .. k+7               one register of x: token 0 | token 1
//     smmla:                     sums += token 0 by rows 0, 1 | token 1 by rows 0, 1               32 products at once
//
// A tile is again one panel by four tokens, in 16 registers of sums, each 2 tokens by 2 rows, which part at a block's end.

// The sums of two tokens: of rows 0 and 1, rows 2 and 3 and so on.
typedef struct {
    int32x4_t rows[LANES / 2];
} PairSums;

I8MM INLINE PairSums matrix_product(PairSums s, const int8_t *w, int8x16_t x) {
    for (int i = 0; i < LANES / 2; i++) s.rows[i] = vmmlaq_s32(s.rows[i], x, vld1q_s8(w + 16 * i));
    return s;
}

// The two tokens' sums of rows 4 i .. 4 i + 3.
INLINE int32x4_t first_token(const PairSums *s, int i) {
    return vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(s->rows[2 * i]), vreinterpretq_s64_s32(s->rows[2 * i + 1])));
}

INLINE int32x4_t second_token(const PairSums *s, int i) {
    return vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(s->rows[2 * i]), vreinterpretq_s64_s32(s->rows[2 * i + 1])));
}

INLINE void finish_pair(float *y, size_t ldy, const uint8_t *w_scale, const float *x_scale, const PairSums *s) {
    for (int i = 0; i < LANES / 4; i++) {
        finish(y + 4 * i, w_scale + 8 * i, x_scale[0], first_token(s, i));
        finish(y + ldy + 4 * i, w_scale + 8 * i, x_scale[1], second_token(s, i));
    }
}

// Half a group.
I8MM static void four_tokens_i8mm(float *y, size_t ldy, const Stretch *s, const int8_t *x, const float *x_scale) {
    const int8_t *quants = s->quants;
    for (int b = 0; b < s->n_blocks; b++, x_scale += TOKENS) {
        PairSums s0 = {{vdupq_n_s32(0)}}, s2;
        for (int i = 1; i < LANES / 2; i++) s0.rows[i] = vdupq_n_s32(0);
        s2 = s0;
        for (const int8_t *end = quants + s->block * LANES; quants < end; quants += 128, x += 8 * TOKENS) {
            int32x4_t k0 = vreinterpretq_s32_s8(vld1q_s8(x)), k4 = vreinterpretq_s32_s8(vld1q_s8(x + 4 * TOKENS));
            s0 = matrix_product(s0, quants, vreinterpretq_s8_s32(vzip1q_s32(k0, k4)));
            s2 = matrix_product(s2, quants, vreinterpretq_s8_s32(vzip2q_s32(k0, k4)));
        }
        finish_pair(y, ldy, s->scales + 32 * b, x_scale, &s0);
        finish_pair(y + 2 * ldy, ldy, s->scales + 32 * b, x_scale + 2, &s2);
    }
}

static void eight_i8mm(float *y, size_t ldy, const Stretch *s, const int8_t *x, const float *x_scale, int n) {
    four_tokens_i8mm(y, ldy, s, x, x_scale);
    if (n > 4) four_tokens_i8mm(y + 4 * ldy, ldy, s, x + 16, x_scale + 4);
}

static const Products i8mm = {one_dotprod, eight_i8mm, 1};

// The encoder's attention may have blocks that are no multiple of eight columns.
static void strip_q8_i8mm(float *y, size_t ldy, const Strip *w, const Int8Rows *x, int n_tok) {
    multiply_strip(y, ldy, w, x, n_tok, 8, w->block % 8 == 0 ? &i8mm : &dotprod);
}

static void strip_q4_i8mm(float *y, size_t ldy, const Strip *w, const Int8Rows *x, int n_tok) {
    multiply_strip(y, ldy, w, x, n_tok, 4, &i8mm);
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

// A block of 4 rows by a token of a group; x: its columns, four at a time, step bytes apart.
INLINE int32x4_t block_sums(const int8_t *w, const int8_t *x, int step, int block) {
    Halves s = {vdupq_n_s32(0), vdupq_n_s32(0)};
    int k = 0;
    for (; k + 8 <= block; k += 8, w += 128, x += 2 * step) {
        s = eight_columns(s, vld1q_s8(w), vld1q_s8(w + 64), four_of(x), four_of(x + step));
    }
    if (k < block) s = four_columns(s, vld1q_s8(w), four_of(x));
    return vpaddq_s32(s.low, s.high);
}

INLINE void tokens_neon(float *y, size_t ldy, const Stretch *s, const int8_t *x, const float *x_scale, int n, int group) {
    for (int b = 0; b < s->n_blocks; b++) {
        for (int row = 0; row < LANES; row += 4) {
            const int8_t *w = s->quants + (b * s->block * LANES + row * 4);
            for (int t = 0; t < n; t++) {
                int32x4_t sums = block_sums(w, x + (b * s->block * group + t * 4), 4 * group, s->block);
                finish(y + (size_t)t * ldy + row, s->scales + 32 * b + 2 * row, x_scale[b * group + t], sums);
            }
        }
    }
}

static void eight_neon(float *y, size_t ldy, const Stretch *s, const int8_t *x, const float *x_scale, int n) {
    tokens_neon(y, ldy, s, x, x_scale, n, TOKENS);
}

static void one_neon(float *y, size_t ldy, const Stretch *s, const int8_t *x, const float *x_scale, int n) {
    tokens_neon(y, ldy, s, x, x_scale, n, 1);
}

static const Products neon = {one_neon, eight_neon, 0};

static void strip_q8_neon(float *y, size_t ldy, const Strip *w, const Int8Rows *x, int n_tok) {
    multiply_strip(y, ldy, w, x, n_tok, 8, &neon);
}

static void strip_q4_neon(float *y, size_t ldy, const Strip *w, const Int8Rows *x, int n_tok) {
    multiply_strip(y, ldy, w, x, n_tok, 4, &neon);
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
#if defined ALWAYS_DOTPROD || defined __APPLE__
    return 1;
#elif defined __linux__
    return getauxval(AT_HWCAP) >> 20 & 1;  // HWCAP_ASIMDDP
#else
    return 0;
#endif
}

static int has_i8mm(void) {
#if defined ALWAYS_I8MM
    return 1;
#elif defined __linux__
    return has_dotprod() && getauxval(AT_HWCAP2) >> 13 & 1;  // HWCAP2_I8MM
#elif defined __APPLE__
    int has = 0;
    size_t size = sizeof has;
    return sysctlbyname("hw.optional.arm.FEAT_I8MM", &has, &size, NULL, 0) == 0 && has;
#else
    return 0;
#endif
}

const Kernel kernel_i8mm = {"i8mm", has_i8mm, strip_f32, strip_q8_i8mm, strip_q4_i8mm, &vector_ops, NULL};
const Kernel kernel_dotprod = {"dotprod", has_dotprod, strip_f32, strip_q8_dotprod, strip_q4_dotprod, &vector_ops, NULL};
const Kernel kernel_neon = {"neon", always, strip_f32, strip_q8_neon, strip_q4_neon, &vector_ops, NULL};

#endif
