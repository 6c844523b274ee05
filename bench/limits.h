// limits.h: what this machine could do at most, measured now.

#ifndef LIMITS_H
#define LIMITS_H

// The instruction that was measured, or NULL with a rate of 0 where this program knows none for the processor.
typedef struct {
    const char *how;
    double rate;
} Limit;

typedef struct {
    Limit int8, f32;  // GMAC/s: 10^9 products, each added to a sum, a second
    Limit read;       // GB/s from memory
} Limits;

// Peaks are the best of several runs, since noise only slows down. Takes a second or two.
Limits limits_measure(int n_threads);

// A part of it, which changes with what other machines on the same memory do.
Limit limits_reading(int n_threads);

#endif
