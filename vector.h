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

// Columns of a token to their places among those of its group.
TARGET static inline void put_columns(int8_t *q, int group, int n, const int8_t *columns) {
    for (int i = 0; i < n; i += 4) memcpy(q + (size_t)i * (size_t)group, columns + i, 4);
}

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
TARGET static void quantise(const Int8Rows *to, int t, const float *x, int n, int block) {
    size_t group = (size_t)(t / to->group), lane = (size_t)(t % to->group), at = group * to->n_scales + lane;
    int8_t *q = to->q + group * to->q_bytes + lane * 4;
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

// exp(factor x) as row t with blocks of Q8_BLOCK, ready to multiply values: q = round(127 e^(factor (x - block's largest))),
// scale = e^(factor (block's largest - row's largest)). Returns the reciprocal of their sum, so that the weights, as rounded,
// add up to 1.
TARGET static float softmax_int8(const Int8Rows *to, int t, const float *x, int n, float factor) {
    size_t group = (size_t)(t / to->group), lane = (size_t)(t % to->group), step = (size_t)to->group;
    int8_t *q = to->q + group * to->q_bytes + lane * 4, columns[Q8_BLOCK];
    float *scale = to->scale + group * to->n_scales + lane, most = greatest(x, n), total = 0, binary = factor * 1.44269504f;
    int32_t *offset = to->offset + group * to->n_scales + lane;
    for (int i = 0; i < n; i += Q8_BLOCK, q += Q8_BLOCK * step, scale += step, offset += step) {
        int length = n - i < Q8_BLOCK ? n - i : Q8_BLOCK, sum_q;
        float peak = length == Q8_BLOCK ? greatest(x + i, Q8_BLOCK) : greatest(x + i, length);
        if (length < Q8_BLOCK) memset(columns, 0, sizeof columns);
        sum_q = length == Q8_BLOCK ? exp_block(columns, x + i, peak, binary, Q8_BLOCK) : exp_block(columns, x + i, peak, binary, length);
        put_columns(q, to->group, Q8_BLOCK, columns);
        *scale = exp_f32((peak - most) * factor);
        *offset = -128 * sum_q;
        total = fmaf(*scale, (float)sum_q, total);
    }
    return 1 / total;
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

static const VectorOps vector_ops = {rmsnorm,      layernorm, softmax, gelu_tanh, silu_multiply, quantise,
                                     softmax_int8, pack_q8,   widen,   narrow,    put_rows};

#endif
