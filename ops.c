// ops.c: the operations that need no instruction set of their own: sine and cosine, rotary positions, additions. They keep the
// numerics contract of vector.h: + - * / alone, in one order, so the same bits everywhere. sin and cos are our own, since
// libm's differ from system to system; threads divide rows, heads or tokens, never a sum.

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
