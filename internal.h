// internal.h: what the engine's files share with each other and with nobody else.

#ifndef INTERNAL_H
#define INTERNAL_H

#include "smol.h"

// ---- support.c: errors, memory, bytes ----

// Fills err and returns code. Knows %s %d %u %z (size_t) and %c; the core has no stdio.
int fail(SmolErr *err, int code, const char *format, ...);

// The same, into a buffer of cap bytes, always terminated.
void format_text(char *out, size_t cap, const char *format, ...);

// bytes for name, 64-byte aligned, or NULL with err filled (while counting: NULL, and no error).
void *arena_take(SmolArena *a, size_t bytes, const char *name, SmolErr *err);

// *r = a * b, or 0 when it does not fit.
int mul_fits(size_t a, size_t b, size_t *r);

static inline uint32_t get_u32(const uint8_t *p) {
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t get_u64(const uint8_t *p) { return get_u32(p) | (uint64_t)get_u32(p + 4) << 32; }

static inline int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// ---- image codecs: png.c, jpeg.c ----

// Reads width and height from a file that starts with the format's signature.
int png_probe(const uint8_t *bytes, size_t n, int *width, int *height, SmolErr *err);
int jpeg_probe(const uint8_t *bytes, size_t n, int *width, int *height, SmolErr *err);

// Arena bytes that decoding a probed file of this size needs, beyond the pixels.
size_t png_bytes(const uint8_t *bytes, size_t n);
size_t jpeg_bytes(const uint8_t *bytes, size_t n);

// rgb: (height, width, 3), as Pillow's convert("RGB") gives it.
int png_decode(const uint8_t *bytes, size_t n, uint8_t *rgb, SmolArena *scratch, SmolErr *err);
int jpeg_decode(const uint8_t *bytes, size_t n, uint8_t *rgb, SmolArena *scratch, SmolErr *err);

// ---- tokenizer.c ----

// Checks the tokenizer section and fills v.
int vocab_open(SmolVocab *v, const uint8_t *bytes, size_t n, int vocab_size, SmolErr *err);

// ---- ops.c: vector operations under the numerics contract ----

double sin_exact(double x);  // |x| up to 1e5; the same bits everywhere
double cos_exact(double x);

#endif
