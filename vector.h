// vector.h: the operations on vectors between the matrix products. Each kernel file includes this page with TARGET set to its
// instruction set, so that the compiler makes one copy for each from the same source. The bits stay the same, because
//   1. every element is computed by + - * / sqrt and fmaf alone, which IEEE 754 rounds exactly (-ffp-contract=off);
//   2. a sum over a vector has one order: element i goes to partial i mod 16, then a fixed tree (sum16);
//   3. exp is the few lines below, never libm's; integers are exact in any order.

#ifndef VECTOR_H
#define VECTOR_H

#include "internal.h"

#include <math.h>
#include <string.h>

// ---- elementary functions ----

TARGET static inline float float_of(uint32_t bits) {
    union { uint32_t bits; float value; } u = {bits};
    return u.value;
}

TARGET static inline uint32_t bits_of(float x) {
    union { float value; uint32_t bits; } u = {x};
    return u.bits;
}

// The nearest integer, half to even: beyond 1.5 * 2^23 floats have no fraction, so the addition rounds. |x| < 2^22.
TARGET static inline int32_t round_even(float x) { return (int32_t)(bits_of(x + 12582912.0f) - 0x4b400000u); }

// e^x = 2^n e^r with |r| <= ln(2)/2: a polynomial for e^r, 2^n put together from its bits. x is clamped to where both the
// result and its reciprocal are normal numbers; NaN stays NaN. Error below 2 units in the last place.
TARGET static inline float exp_f32(float x) {
    x = x < -87 ? -87 : x;
    x = x > 87 ? 87 : x;
    float n = x * 1.44269504f + 12582912.0f;  // rounds, as in round_even
    uint32_t power = (bits_of(n) << 23) + 0x3f800000u;
    n -= 12582912.0f;
    float r = fmaf(n, -0.693359375f, x);  // exact: 355/512, the first bits of ln 2, times a small n
    r = fmaf(n, 2.12194440e-4f, r);       // the rest of ln 2
    float p = 1 / 5040.0f;
    p = fmaf(p, r, 1 / 720.0f);
    p = fmaf(p, r, 1 / 120.0f);
    p = fmaf(p, r, 1 / 24.0f);
    p = fmaf(p, r, 1 / 6.0f);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p * r, r, r) + 1;
    return p * float_of(power);
}

// ---- sums ----

TARGET static inline float sum16(float p[16]) {
    for (int i = 0; i < 8; i++) p[i] += p[i + 8];
    for (int i = 0; i < 4; i++) p[i] += p[i + 4];
    return (p[0] + p[2]) + (p[1] + p[3]);
}

// Sum of x.
TARGET static float sum(const float *x, int n) {
    float p[16] = {0};
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int j = 0; j < 16; j++) p[j] += x[i + j];
    }
    for (int j = 0; j < n % 16; j++) p[j] += x[i + j];
    return sum16(p);
}

// Sum of (x - centre)^2.
TARGET static float sum_squares(const float *x, float centre, int n) {
    float p[16] = {0};
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int j = 0; j < 16; j++) p[j] = fmaf(x[i + j] - centre, x[i + j] - centre, p[j]);
    }
    for (int j = 0; j < n % 16; j++) p[j] = fmaf(x[i + j] - centre, x[i + j] - centre, p[j]);
    return sum16(p);
}

// Floats as integers of the same order (NaN beyond infinity), because compilers make vectors of a maximum of integers only.
TARGET static inline int32_t rank_of(float x) {
    int32_t bits = (int32_t)bits_of(x);
    return bits ^ (bits >> 31 & 0x7fffffff);
}

TARGET static inline float of_rank(int32_t rank) { return float_of((uint32_t)(rank ^ (rank >> 31 & 0x7fffffff))); }

// The largest |x|.
TARGET static inline float largest(const float *x, int n) {
    int32_t most = 0;
    for (int i = 0; i < n; i++) {
        int32_t magnitude = (int32_t)(bits_of(x[i]) & 0x7fffffff);
        most = magnitude > most ? magnitude : most;
    }
    return float_of((uint32_t)most);
}

// The largest x.
TARGET static inline float greatest(const float *x, int n) {
    int32_t most = INT32_MIN;
    for (int i = 0; i < n; i++) {
        int32_t rank = rank_of(x[i]);
        most = rank > most ? rank : most;
    }
    return of_rank(most);
}

// ---- normalisation ----

// y = x / sqrt(mean(x^2) + eps) * w                                        LlamaRMSNorm
TARGET static void rmsnorm(float *y, const float *x, const float *w, int n, float eps) {
    float scale = 1 / sqrtf(sum_squares(x, 0, n) / (float)n + eps);
    for (int i = 0; i < n; i++) y[i] = x[i] * scale * w[i];
}

// y = (x - mean) / sqrt(variance + eps) * w + b, variance over n            torch.nn.LayerNorm
TARGET static void layernorm(float *y, const float *x, const float *w, const float *b, int n, float eps) {
    float mean = sum(x, n) / (float)n;
    float scale = 1 / sqrtf(sum_squares(x, mean, n) / (float)n + eps);
    for (int i = 0; i < n; i++) y[i] = fmaf((x[i] - mean) * scale, w[i], b[i]);
}

// x = softmax(scale x)
TARGET static void softmax(float *x, int n, float scale) {
    float max = greatest(x, n);
    for (int i = 0; i < n; i++) x[i] = exp_f32((x[i] - max) * scale);
    float inverse = 1 / sum(x, n);
    for (int i = 0; i < n; i++) x[i] *= inverse;
}

// ---- activations ----

// x = x/2 (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3). Because (1 + tanh u)/2 = 1/(1 + e^-2u), one exp does it.
TARGET static void gelu_tanh(float *x, int n) {
    for (int i = 0; i < n; i++) {
        float u = 0.797884561f * fmaf(0.044715f * x[i] * x[i], x[i], x[i]);
        x[i] = x[i] / (1 + exp_f32(-2 * u));
    }
}

// gate = silu(gate) up, silu(x) = x/(1 + e^-x)                              LlamaMLP
TARGET static void silu_multiply(float *gate, const float *up, int n) {
    for (int i = 0; i < n; i++) gate[i] = gate[i] / (1 + exp_f32(-gate[i])) * up[i];
}

// ---- half precision (IEEE 754 binary16) ----

// Exact: the exponent moves by a multiplication, which puts numbers below 2^-14 right as well.
TARGET static inline float f16_to_f32(uint16_t h) {
    uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13;
    float x = (h & 0x7c00) == 0x7c00 ? float_of(magnitude + 0x70000000u) : float_of(magnitude) * 0x1p112f;
    return float_of(bits_of(x) | (uint32_t)(h & 0x8000) << 16);
}

// Rounds half to even; what is too large becomes 65504, the largest number there is, but infinity and NaN become NaN.
TARGET static inline uint16_t f32_to_f16(float x) {
    float a = fabsf(x);
    a = a < 65504 ? a : a < INFINITY ? 65504 : 98304;  // whose bits, below, become those of NaN
    uint32_t bits = bits_of(a);
    uint32_t normal = (bits + 0xfffu + (bits >> 13 & 1)) >> 13;
    uint32_t small = bits_of(a + 0.5f) - bits_of(0.5f);  // floats near 1/2 are 2^-24 apart, as halves below 2^-14 are
    uint32_t half = a < 0x1p-14f ? small : normal - (112u << 10);
    return (uint16_t)(half | (bits_of(x) >> 16 & 0x8000));
}

TARGET static void widen(float *y, const uint16_t *x, int n) {
    for (int i = 0; i < n; i++) y[i] = f16_to_f32(x[i]);
}

TARGET static void narrow(uint16_t *y, const float *x, int n) {
    for (int i = 0; i < n; i++) y[i] = f32_to_f16(x[i]);
}

// ---- rounding to int8 ----

// A block's scale, largest / 127; 0 for a block so small that the reciprocal would overflow. Where there is NaN or infinity it is
// NaN, as are then all products of the block: what is broken shows in the logits.
TARGET static inline float scale_of(float most) { return most <= 0x1p-100f ? 0 : most < INFINITY ? most / 127 : NAN; }

// Its reciprocal, or 0.
TARGET static inline float inverse_scale(float most) { return most > 0x1p-100f ? 127 / most : 0; }

// x / scale within -127 .. 127; NaN becomes -127.
TARGET static inline int32_t quantised(float x, float inverse) {
    float v = x * inverse;
    v = v > -127 ? v : -127;
    return round_even(v < 127 ? v : 127);
}

// Where row t begins, and its scale and offset of block b.
TARGET static inline int8_t *q_place(const Int8Rows *x, int t) {
    return x->q + (size_t)(t / x->group) * x->q_bytes + (size_t)(t % x->group) * 4;
}

TARGET static inline size_t scale_place(const Int8Rows *x, int t, int b) {
    return (size_t)(t / x->group) * x->n_scales + (size_t)b * (size_t)x->group + (size_t)(t % x->group);
}

// Columns of a token to their places among those of its group.
TARGET static inline void put_columns(int8_t *q, int group, int n, const int8_t *columns) {
    for (int i = 0; i < n; i += 4) memcpy(q + (size_t)i * (size_t)group, columns + i, 4);
}

#ifdef OWN_ROUNDING  // the kernel's file has these two
static void quantise(const Int8Rows *to, int first, int n_rows, const float *x, size_t ldx, int n, int block);
static void softmax_block(const Int8Rows *to, int first, int n_rows, int b, const float *x, int n, float factor);
#else

// n numbers as int8; returns their sum.
TARGET static inline int32_t round_block(int8_t *columns, const float *x, float inverse, int n) {
    int32_t total = 0;
    for (int i = 0; i < n; i++) {
        int32_t v = quantised(x[i], inverse);
        columns[i] = (int8_t)v;
        total += v;
    }
    return total;
}

// A block of n floats, for which the compiler likes to know n.
TARGET static inline void quantise_block(int8_t *q, int group, float *scale, int32_t *offset, const float *x, int n, int block) {
    int8_t columns[2 * Q8_BLOCK];
    float most = largest(x, n), inverse = inverse_scale(most);
    if (n < block) memset(columns, 0, sizeof columns);
    *offset = -128 * round_block(columns, x, inverse, n);
    *scale = scale_of(most);
    put_columns(q, group, block, columns);
}

// A row of n floats becomes row t, x = scale q, |q| <= 127; the last block is filled up with zeros.
TARGET static void quantise_row(const Int8Rows *to, int t, const float *x, int n, int block) {
    size_t at = scale_place(to, t, 0);
    int8_t *q = q_place(to, t);
    for (int i = 0; i < n; i += block, q += (size_t)block * (size_t)to->group, at += (size_t)to->group) {
        if (n - i >= Q8_BLOCK && block == Q8_BLOCK) {
            quantise_block(q, to->group, &to->scale[at], &to->offset[at], x + i, Q8_BLOCK, Q8_BLOCK);
        } else if (n - i >= Q4_BLOCK && block == Q4_BLOCK) {
            quantise_block(q, to->group, &to->scale[at], &to->offset[at], x + i, Q4_BLOCK, Q4_BLOCK);
        } else {
            quantise_block(q, to->group, &to->scale[at], &to->offset[at], x + i, n - i < block ? n - i : block, block);
        }
    }
}

// A group of rows, of which n_rows are there. What the missing ones become is of no account.  x (n_rows, ldx)
TARGET static void quantise(const Int8Rows *to, int first, int n_rows, const float *x, size_t ldx, int n, int block) {
    for (int i = 0; i < n_rows; i++) quantise_row(to, first + i, x + (size_t)i * ldx, n, block);
}

// round(127 * 2^t) for t <= 0. A cubic does: its error is a thousandth of what the rounding leaves.
TARGET static inline int32_t exp2_127(float t) {
    t = t > -16 ? t : -16;
    float n = t + 12582912.0f;
    uint32_t power = bits_of(n) << 23;
    float f = t - (n - 12582912.0f);
    float p = fmaf(fmaf(fmaf(0.05517167f, f, 0.24261113f), f, 0.69326097f), f, 0.99992806f);
    return round_even(127 * float_of(bits_of(p) + power));
}

// round(127 e^(factor (x - peak))) of n numbers; returns their sum.
TARGET static inline int32_t exp_block(int8_t *columns, const float *x, float peak, float binary, int n) {
    int32_t total = 0;
    for (int i = 0; i < n; i++) {
        int32_t v = exp2_127((x[i] - peak) * binary);  // never above 127, however large x is
        columns[i] = (int8_t)v;
        total += v;
    }
    return total;
}

// A block of scores of a group of rows, of which n_rows are there, becomes their block b: q = round(127 e^(factor (x - peak))),
// where the peak is the block's largest and, for now, its scale.  x (n_rows, Q8_BLOCK), n columns of it
TARGET static void softmax_block(const Int8Rows *to, int first, int n_rows, int b, const float *x, int n, float factor) {
    float binary = factor * 1.44269504f;
    for (int t = first; t < first + n_rows; t++, x += Q8_BLOCK) {
        int8_t columns[Q8_BLOCK] = {0};
        float peak = n == Q8_BLOCK ? greatest(x, Q8_BLOCK) : greatest(x, n);
        int32_t total = n == Q8_BLOCK ? exp_block(columns, x, peak, binary, Q8_BLOCK) : exp_block(columns, x, peak, binary, n);
        put_columns(q_place(to, t) + b * Q8_BLOCK * to->group, to->group, Q8_BLOCK, columns);
        to->scale[scale_place(to, t, b)] = peak;
        to->offset[scale_place(to, t, b)] = -128 * total;
    }
}

#endif

// A vector of the KV cache, x = scale y. Returns the scale.
TARGET static float narrow8(int8_t *y, const float *x, int n) {
    float most = largest(x, n), inverse = inverse_scale(most);
    for (int i = 0; i < n; i++) y[i] = (int8_t)quantised(x[i], inverse);
    return scale_of(most);
}

TARGET static void widen8(float *y, const int8_t *x, int n) {
    for (int i = 0; i < n; i++) y[i] = x[i];
}

// The scales of a group's rows, of which n_rows are there, once all their peaks are known: e^(factor (peak - row's largest)).
// inverse: the reciprocals of the rows' sums, so that the weights, as rounded, add up to 1.  inverse (TOKENS)
TARGET static void softmax_scales(const Int8Rows *to, int first, int n_rows, int n_blocks, float factor, float *inverse) {
    float *scale = to->scale + scale_place(to, first, 0), total[TOKENS] = {0};
    int32_t *offset = to->offset + scale_place(to, first, 0), most[TOKENS];
    for (int i = 0; i < TOKENS; i++) most[i] = INT32_MIN;
    for (int b = 0; b < n_blocks; b++) {
        for (int i = n_rows; i < TOKENS; i++) scale[b * TOKENS + i] = 0, offset[b * TOKENS + i] = 0;
        for (int i = 0; i < TOKENS; i++) {
            int32_t rank = rank_of(scale[b * TOKENS + i]);
            most[i] = rank > most[i] ? rank : most[i];
        }
    }
    for (int b = 0; b < n_blocks; b++, scale += TOKENS, offset += TOKENS) {
        for (int i = 0; i < TOKENS; i++) {
            scale[i] = exp_f32((scale[i] - of_rank(most[i])) * factor);
            total[i] = fmaf(scale[i], (float)(offset[i] / -128), total[i]);
        }
    }
    for (int i = 0; i < TOKENS; i++) inverse[i] = 1 / total[i];
}

// One block of a Q8 panel: 16 scales (f16) and the quants of n columns (FORMAT.md), n a multiple of 4.  x (n, 16)
TARGET static void pack_q8(uint16_t *scales, uint8_t *quants, const float *x, int n) {
    int32_t most[LANES] = {0};  // as in largest()
    float inverse[LANES];
    for (int k = 0; k < n; k++) {
        for (int r = 0; r < LANES; r++) {
            int32_t magnitude = (int32_t)(bits_of(x[k * LANES + r]) & 0x7fffffff);
            most[r] = magnitude > most[r] ? magnitude : most[r];
        }
    }
    for (int r = 0; r < LANES; r++) {
        scales[r] = f32_to_f16(float_of((uint32_t)most[r]) / 127);
        float scale = f16_to_f32(scales[r]);
        inverse[r] = scale > 0 ? 1 / scale : 0;
    }
    for (int k = 0; k < n; k += 4, quants += 64, x += 4 * LANES) {
        uint32_t four[LANES] = {0};
        for (int j = 0; j < 4; j++) {
            for (int r = 0; r < LANES; r++) four[r] |= (uint32_t)(quantised(x[j * LANES + r], inverse[r]) + 128) << 8 * j;
        }
        memcpy(quants, four, sizeof four);  // little-endian: column k first
    }
}

// ---- tiles ----

// Rows of a tile begin with the strip's start.
TARGET static inline void start_rows(float *y, size_t ldy, const float *start, int n_rows) {
    for (int i = 0; i < n_rows; i++) memcpy(y + (size_t)i * ldy, start, 2 * LANES * sizeof *y);
}

TARGET static inline void put_row(float *y, const float *x, int n, int adds) {
    for (int i = 0; i < n; i++) y[i] = adds ? y[i] + x[i] : x[i];
}

// y = tile, or y += tile: n_rows of n columns, n being one panel or two.
TARGET static void put_rows(float *y, size_t ldy, const float *tile, size_t ld, int n_rows, int n, int adds) {
    for (int i = 0; i < n_rows; i++, y += ldy, tile += ld) {
        if (n == 2 * LANES) {  // sizes that the compiler knows
            put_row(y, tile, 2 * LANES, adds);
        } else {
            put_row(y, tile, LANES, adds);
        }
    }
}

static const VectorOps vector_ops = {rmsnorm,       layernorm,      softmax, gelu_tanh, silu_multiply, quantise,
                                     softmax_block, softmax_scales, pack_q8, widen,     narrow,        widen8,
                                     narrow8,       put_rows};

#endif
