// fmaf.c: a b + c, rounded once, for a processor without the instruction and a library that gets it wrong: mingw-w64's and newlib's
// fmaf add in double and round to float after that, so that they round twice, and the bits of an answer change.
//
// The product of two floats is exact in a double. Their sum with c is not, but it can be rounded to odd: if something was lost, the
// last bit is set. Then rounding to float meets no tie that is none (Boldo and Melquiond, "Emulation of FMA and correctly rounded
// sums: proved algorithms using rounding to odd", 2008).

#include <math.h>
#include <stdint.h>
#include <string.h>

float fmaf(float a, float b, float c) {
    double product = (double)a * b, sum = product + c;
    double part = sum - product, lost = (product - (sum - part)) + (c - part);
    uint64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    if ((lost < 0 || lost > 0) && bits % 2 == 0) {  // neither holds where sum is infinite or no number
        bits += (lost > 0) == (sum > 0) ? 1 : UINT64_MAX;
        memcpy(&sum, &bits, sizeof sum);
    }
    return (float)sum;
}
