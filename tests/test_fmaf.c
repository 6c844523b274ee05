// test_fmaf.c: ports/fmaf.c against this machine's fmaf, which is the C library's or an instruction.

#include <math.h>

#define fmaf ported_fmaf
float ported_fmaf(float a, float b, float c);
#include "ports/fmaf.c"
#undef fmaf

#include "test.h"

// Numbers of all magnitudes, also zeros, infinities, NaN and the smallest; many have few bits, so that sums meet ties.
static float number(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    uint32_t bits = (uint32_t)(z >> 32);
    if (z % 4 == 0) bits &= 0xfff00001u;
    if (z % 4 == 1) bits = (bits & 0x80ffffffu) | (uint32_t)(120 + z / 4 % 12) << 23;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static int same(float a, float b) { return (isnan(a) && isnan(b)) || memcmp(&a, &b, sizeof a) == 0; }

int main(void) {
    uint64_t state = 1;
    int n_double = 0;
    for (int i = 0; i < 4000000; i++) {
        float a = number(&state), b = number(&state), c = number(&state), want = fmaf(a, b, c), got = ported_fmaf(a, b, c);
        if (!same(got, want)) CHECK(0, "fmaf(%a, %a, %a) is %a, not %a", (double)a, (double)b, (double)c, (double)got, (double)want);
        n_double += !same((float)((double)a * b + c), want);
    }
    CHECK(n_double > 100, "only %d sums that two roundings get wrong", n_double);
    return test_end("fmaf");
}
