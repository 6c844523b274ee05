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

#define AVX2 __attribute__((target("avx2,fma")))

AVX2 static void four_tokens(float *y, size_t ldy, const float *w, size_t ldw, const float *x, size_t ldx, int n_k) {
    __m256 low[4], high[4];
    for (size_t t = 0; t < 4; t++) {
        low[t] = _mm256_loadu_ps(y + t * ldy);
        high[t] = _mm256_loadu_ps(y + t * ldy + 8);
    }
    for (int k = 0; k < n_k; k++, w += ldw) {
        __m256 w_low = _mm256_loadu_ps(w), w_high = _mm256_loadu_ps(w + 8);
        for (size_t t = 0; t < 4; t++) {
            __m256 xk = _mm256_broadcast_ss(x + t * ldx + k);
            low[t] = _mm256_fmadd_ps(w_low, xk, low[t]);
            high[t] = _mm256_fmadd_ps(w_high, xk, high[t]);
        }
    }
    for (size_t t = 0; t < 4; t++) {
        _mm256_storeu_ps(y + t * ldy, low[t]);
        _mm256_storeu_ps(y + t * ldy + 8, high[t]);
    }
}

AVX2 static void one_token(float *y, const float *w, size_t ldw, const float *x, int n_k) {
    __m256 low = _mm256_loadu_ps(y), high = _mm256_loadu_ps(y + 8);
    for (int k = 0; k < n_k; k++, w += ldw) {
        __m256 xk = _mm256_broadcast_ss(x + k);
        low = _mm256_fmadd_ps(_mm256_loadu_ps(w), xk, low);
        high = _mm256_fmadd_ps(_mm256_loadu_ps(w + 8), xk, high);
    }
    _mm256_storeu_ps(y, low);
    _mm256_storeu_ps(y + 8, high);
}

static void panel_f32(float *y, size_t ldy, const float *w, size_t ldw, const float *x, size_t ldx, int n_k, int n_tok) {
    size_t t = 0, n = (size_t)n_tok;
    for (; t + 4 <= n; t += 4) four_tokens(y + t * ldy, ldy, w, ldw, x + t * ldx, ldx, n_k);
    for (; t < n; t++) one_token(y + t * ldy, w, ldw, x + t * ldx, n_k);
}

static int supported(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

const Kernel kernel_avx2 = {"avx2", supported, panel_f32};

#endif
