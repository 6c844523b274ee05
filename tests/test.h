// test.h: the whole test framework. A test is a function; a check counts, and says where it failed.

#ifndef TEST_H
#define TEST_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int n_passed, n_failed;

// Prints the message (printf style) with its place when the condition is false.
#define CHECK(condition, ...)                                        \
    do {                                                             \
        if (condition) {                                             \
            n_passed++;                                              \
        } else {                                                     \
            n_failed++;                                              \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
            fprintf(stderr, __VA_ARGS__);                            \
            fputc('\n', stderr);                                     \
        }                                                            \
    } while (0)

// The last line of every test program; main returns its value.
static inline int test_end(const char *name) {
    printf("%s: %d passed, %d failed\n", name, n_passed, n_failed);
    return n_failed != 0;
}

// fmax, at which gcc 12 for 64-bit ARM breaks off in loops of double.
static inline double larger(double a, double b) { return a > b ? a : b; }

// The whole of a file, malloced; NULL when it cannot be read.
static inline unsigned char *read_file(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    unsigned char *bytes = malloc(*n + 1);
    if (fread(bytes, 1, *n, f) != *n) exit(2);
    fclose(f);
    return bytes;
}

static inline void hex(char out[65], const unsigned char digest[32]) {
    for (int i = 0; i < 32; i++) sprintf(out + 2 * i, "%02x", digest[i]);
}

#endif
