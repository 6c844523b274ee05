// ops.c: the small operations between the matrix products, and the numerics contract they keep.
//
// The same input gives the same bits on every machine, compiler, optimisation level and number of threads, because
//   1. every output of a matrix product is one lane: acc = fmaf(w, x, acc), k in order (quant.c);
//   2. a sum over a vector has one order: element i goes to partial i mod 16, then a fixed tree (sum16);
//   3. exp, sin and cos are the few lines below; libm's differ from system to system;
//   4. only + - * / sqrt and fmaf are used, which IEEE 754 rounds exactly, and -ffp-contract=off forbids fusing;
//   5. threads divide rows, heads or tokens, never a sum.

#include "internal.h"

#include <math.h>
#include <string.h>

// ---- elementary functions ----

// x = k pi/2 + r, |r| <= pi/4. pi/2 is split so that k times its first part (33 bits) is exact for k below 2^20.
static double reduce(double x, int *quadrant) {
    const double half_pi_high = 0x1.921fb544p+0, half_pi_low = 0x1.0b4611a626331p-34;
    int k = (int)(x * 0.63661977236758134 + (x < 0 ? -0.5 : 0.5));
    *quadrant = k & 3;
    return (x - k * half_pi_high) - k * half_pi_low;
}

// Taylor series; |r| <= pi/4 leaves less than 1e-19 after r^17 and r^18.
static double sin_series(double r) {
    double r2 = r * r, s = 0;
    for (int n = 17; n >= 3; n -= 2) s = (1 - s) * r2 / ((n - 1) * n);
    return r - r * s;
}

static double cos_series(double r) {
    double r2 = r * r, s = 0;
    for (int n = 18; n >= 2; n -= 2) s = (1 - s) * r2 / ((n - 1) * n);
    return 1 - s;
}

double sin_exact(double x) {
    int quadrant;
    double r = reduce(x, &quadrant);
    double s = quadrant & 1 ? cos_series(r) : sin_series(r);
    return quadrant & 2 ? -s : s;
}

double cos_exact(double x) {
    int quadrant;
    double r = reduce(x, &quadrant);
    double c = quadrant & 1 ? sin_series(r) : cos_series(r);
    return quadrant == 1 || quadrant == 2 ? -c : c;
}

// e^x = 2^n e^r with |r| <= ln(2)/2: a polynomial for e^r, 2^n put together from its bits. x is clamped to where both the
// result and its reciprocal are normal numbers. Error below 2 units in the last place.
static float exp_f32(float x) {
    x = x > -87 ? x : -87;  // NaN too, so that the conversion below is always defined
    x = x < 87 ? x : 87;
    int n = (int)(x * 1.44269504f + (x < 0 ? -0.5f : 0.5f));
    float r = x - (float)n * 0.693359375f;  // exact: 355/512, the first bits of ln 2, times a small n
    r = r - (float)n * -2.12194440e-4f;     // the rest of ln 2
    float p = 1 / 5040.0f;
    p = p * r + 1 / 720.0f;
    p = p * r + 1 / 120.0f;
    p = p * r + 1 / 24.0f;
    p = p * r + 1 / 6.0f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1;
    union { uint32_t bits; float value; } power = {(uint32_t)(n + 127) << 23};
    return p * power.value;
}

// ---- sums ----

static float sum16(const float partial[16]) {
    float p[16];
    memcpy(p, partial, sizeof p);
    for (int half = 8; half >= 1; half /= 2) {
        for (int i = 0; i < half; i++) p[i] += p[i + half];
    }
    return p[0];
}

static float sum(const float *x, int n) {
    float p[16] = {0};
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int j = 0; j < 16; j++) p[j] += x[i + j];
    }
    for (int j = 0; i < n; i++, j++) p[j] += x[i];
    return sum16(p);
}

// Sum of (x - centre)^2.
static float sum_squares(const float *x, float centre, int n) {
    float p[16] = {0};
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int j = 0; j < 16; j++) p[j] += (x[i + j] - centre) * (x[i + j] - centre);
    }
    for (int j = 0; i < n; i++, j++) p[j] += (x[i] - centre) * (x[i] - centre);
    return sum16(p);
}

// ---- normalisation ----

// y = x / sqrt(mean(x^2) + eps) * w                                        LlamaRMSNorm
void rmsnorm(float *y, const float *x, const float *w, int n, float eps) {
    float scale = 1 / sqrtf(sum_squares(x, 0, n) / (float)n + eps);
    for (int i = 0; i < n; i++) y[i] = x[i] * scale * w[i];
}

// y = (x - mean) / sqrt(variance + eps) * w + b, variance over n            torch.nn.LayerNorm
void layernorm(float *y, const float *x, const float *w, const float *b, int n, float eps) {
    float mean = sum(x, n) / (float)n;
    float scale = 1 / sqrtf(sum_squares(x, mean, n) / (float)n + eps);
    for (int i = 0; i < n; i++) y[i] = (x[i] - mean) * scale * w[i] + b[i];
}

// x = softmax(scale x)
void softmax(float *x, int n, float scale) {
    float max = x[0];
    for (int i = 1; i < n; i++) max = x[i] > max ? x[i] : max;
    for (int i = 0; i < n; i++) x[i] = exp_f32((x[i] - max) * scale);
    float inverse = 1 / sum(x, n);
    for (int i = 0; i < n; i++) x[i] *= inverse;
}

// ---- activations ----

// x = x/2 (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3). Because (1 + tanh u)/2 = 1/(1 + e^-2u), one exp does it.
void gelu_tanh(float *x, int n) {
    for (int i = 0; i < n; i++) {
        float u = 0.797884561f * (x[i] + 0.044715f * (x[i] * x[i] * x[i]));
        x[i] = x[i] / (1 + exp_f32(-2 * u));
    }
}

// gate = silu(gate) up, silu(x) = x/(1 + e^-x)                              LlamaMLP
void silu_multiply(float *gate, const float *up, int n) {
    for (int i = 0; i < n; i++) gate[i] = gate[i] / (1 + exp_f32(-gate[i])) * up[i];
}

void add(float *x, const float *y, int n) {
    for (int i = 0; i < n; i++) x[i] += y[i];
}

// ---- rotary position embedding (RoFormer; the rotate-half pairing of Hugging Face) ----

// cos and sin of position * inv_freq[j], j < half. The angle is rounded to float first, as the reference does.
void rope_angles(float *cos, float *sin, const float *inv_freq, int half, int position) {
    for (int j = 0; j < half; j++) {
        float angle = (float)position * inv_freq[j];
        cos[j] = (float)cos_exact(angle);
        sin[j] = (float)sin_exact(angle);
    }
}

// Element j turns together with element j + half.
void rope(float *x, const float *cos, const float *sin, int half) {
    for (int j = 0; j < half; j++) {
        float a = x[j], b = x[j + half];
        x[j] = a * cos[j] - b * sin[j];
        x[j + half] = b * cos[j] + a * sin[j];
    }
}
