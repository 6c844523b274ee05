// kernels_avx2.c: the panel product for x86-64 with AVX2 and FMA.
//
//     token 0   [ acc 0..7 ][ acc 8..15 ]      one panel is 16 rows: two registers of 8 floats.
//     token 1   [ acc 0..7 ][ acc 8..15 ]      Four tokens share each load of the weights:
//     token 2   [ acc 0..7 ][ acc 8..15 ]      8 accumulators, 2 weights, 1 broadcast of x,
//     token 3   [ acc 0..7 ][ acc 8..15 ]      11 of the 16 registers.
//
// vfmadd computes lane by lane what fmaf computes, in the same order of k: the bits are those of the plain C.

#include "internal.h"

#ifdef __x86_64__

#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma,f16c")))

#include "vector.h"

// Named registers, not arrays: gcc keeps arrays on the stack and stores them back at every k.
TARGET static void four_tokens(float *y, size_t ldy, const float *w, size_t ldw, const float *x, size_t ldx, int n_k) {
    float *y1 = y + ldy, *y2 = y1 + ldy, *y3 = y2 + ldy;
    const float *x1 = x + ldx, *x2 = x1 + ldx, *x3 = x2 + ldx;
    __m256 low0 = _mm256_loadu_ps(y), high0 = _mm256_loadu_ps(y + 8);
    __m256 low1 = _mm256_loadu_ps(y1), high1 = _mm256_loadu_ps(y1 + 8);
    __m256 low2 = _mm256_loadu_ps(y2), high2 = _mm256_loadu_ps(y2 + 8);
    __m256 low3 = _mm256_loadu_ps(y3), high3 = _mm256_loadu_ps(y3 + 8);
    for (int k = 0; k < n_k; k++, w += ldw) {
        __m256 w_low = _mm256_loadu_ps(w), w_high = _mm256_loadu_ps(w + 8);
        __m256 xk = _mm256_broadcast_ss(x + k);
        low0 = _mm256_fmadd_ps(w_low, xk, low0);
        high0 = _mm256_fmadd_ps(w_high, xk, high0);
        xk = _mm256_broadcast_ss(x1 + k);
        low1 = _mm256_fmadd_ps(w_low, xk, low1);
        high1 = _mm256_fmadd_ps(w_high, xk, high1);
        xk = _mm256_broadcast_ss(x2 + k);
        low2 = _mm256_fmadd_ps(w_low, xk, low2);
        high2 = _mm256_fmadd_ps(w_high, xk, high2);
        xk = _mm256_broadcast_ss(x3 + k);
        low3 = _mm256_fmadd_ps(w_low, xk, low3);
        high3 = _mm256_fmadd_ps(w_high, xk, high3);
    }
    _mm256_storeu_ps(y, low0), _mm256_storeu_ps(y + 8, high0);
    _mm256_storeu_ps(y1, low1), _mm256_storeu_ps(y1 + 8, high1);
    _mm256_storeu_ps(y2, low2), _mm256_storeu_ps(y2 + 8, high2);
    _mm256_storeu_ps(y3, low3), _mm256_storeu_ps(y3 + 8, high3);
}

TARGET static void one_token(float *y, const float *w, size_t ldw, const float *x, int n_k) {
    __m256 low = _mm256_loadu_ps(y), high = _mm256_loadu_ps(y + 8);
    for (int k = 0; k < n_k; k++, w += ldw) {
        __m256 xk = _mm256_broadcast_ss(x + k);
        low = _mm256_fmadd_ps(_mm256_loadu_ps(w), xk, low);
        high = _mm256_fmadd_ps(_mm256_loadu_ps(w + 8), xk, high);
    }
    _mm256_storeu_ps(y, low);
    _mm256_storeu_ps(y + 8, high);
}

static void strip_f32(float *y, size_t ldy, const StripF32 *w, const float *x, size_t ldx, int n_tok) {
    for (size_t p = 0; p < (size_t)w->n_panels; p++, y += LANES) {
        const float *panel = w->w + p * w->step;
        size_t t = 0, n = (size_t)n_tok;
        for (; t + 4 <= n; t += 4) four_tokens(y + t * ldy, ldy, panel, w->ldw, x + t * ldx, ldx, w->n_k);
        for (; t < n; t++) one_token(y + t * ldy, panel, w->ldw, x + t * ldx, w->n_k);
    }
}

static int supported(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

const Kernel kernel_avx2 = {"avx2", supported, strip_f32, plain_strip_q8, plain_strip_q4, &vector_ops};

#endif
