// fuzz.h: what the fuzzers share. Each fuzz_*.c is one entry point for libFuzzer (make fuzz), which calls it with bytes
// that it varies to reach new code; a crash, a sanitizer's report or a false EXPECT is a finding, kept as a file.

#ifndef FUZZ_H
#define FUZZ_H

#include "../codecs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define EXPECT(condition)                                                     \
    do {                                                                      \
        if (!(condition)) {                                                   \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);   \
            abort();                                                          \
        }                                                                     \
    } while (0)

static inline void *fuzz_memory(size_t n) {
    void *p = aligned_alloc(64, (n + 64) / 64 * 64);
    if (!p) exit(2);
    return p;
}

// A failure leaves its code and one line.
static inline void expect_line(int code, const SmolErr *err) {
    EXPECT(code < 0 && err->code == code);
    EXPECT(err->text[0] && memchr(err->text, 0, sizeof err->text) && !strchr(err->text, '\n'));
}

// Decodes a picture of up to 2^20 pixels within exactly the memory that was planned.
static inline void fuzz_codec(const Codec *codec, const uint8_t *bytes, size_t n) {
    int width = 0, height = 0;
    SmolErr err = {0};
    int code = codec->probe(bytes, n, &width, &height, &err);
    if (code != 0) {
        expect_line(code, &err);
        return;
    }
    EXPECT(width > 0 && height > 0 && (int64_t)width * height <= 1 << 28);
    size_t n_rgb = (size_t)width * (size_t)height * 3;
    SmolArena scratch = {.size = codec->scratch(bytes, n)};
    if (n_rgb > 3 << 20 || scratch.size > 1 << 26) return;
    scratch.base = fuzz_memory(scratch.size);
    uint8_t *rgb = malloc(n_rgb);
    code = codec->decode(bytes, n, rgb, &scratch, &err);
    if (code != 0) expect_line(code, &err);
    EXPECT(code != SMOL_E_MEMORY);
    free(rgb);
    free(scratch.base);
}

#endif
