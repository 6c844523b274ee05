// random.h: numbers for the tests of kernels, ordinary ones and those at which kernels could differ.

#ifndef RANDOM_H
#define RANDOM_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static uint64_t random_state = 1;

static inline uint32_t random_bits(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

static inline int random_below(int n) { return (int)(random_bits() % (uint32_t)n); }

static inline float random_float(int adversarial) {
    static const float strange[] = {0.0f, -0.0f, 1e-45f, -1e-45f, 1e-38f, -3e-39f, 3e38f, -3e38f, 1e20f, -1e19f, 1.0f, -1.0f};
    if (adversarial && random_below(3) == 0) return strange[random_bits() % (sizeof strange / sizeof *strange)];
    return (float)(int32_t)random_bits() / 1e9f;
}

// An array of its exact size, so that the address sanitizer sees a step beyond.
static inline float *random_floats(size_t n, int adversarial) {
    float *x = malloc((n ? n : 1) * sizeof *x);
    if (!x) exit(2);
    for (size_t i = 0; i < n; i++) x[i] = random_float(adversarial);
    return x;
}

// The same bits; infinities may come out of huge numbers, and any NaN equals any other.
static inline int same_floats(const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (memcmp(&a[i], &b[i], sizeof *a) != 0 && !(isnan(a[i]) && isnan(b[i]))) return 0;
    }
    return 1;
}

#endif
