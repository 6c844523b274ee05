// support.c: error lines, the arena, SHA-256. The core has no stdio and no malloc; this is what it uses instead.

#include "internal.h"

#include <stdarg.h>
#include <string.h>

// ---- text ----

typedef struct {
    char *out;
    size_t cap, n;
} Text;

static void put(Text *t, const char *s, size_t n) {
    for (size_t i = 0; i < n && t->n + 1 < t->cap; i++) t->out[t->n++] = s[i];
}

static void put_number(Text *t, uint64_t v) {
    char digits[20];
    size_t n = 0;
    do digits[sizeof digits - ++n] = (char)('0' + v % 10);
    while (v /= 10);
    put(t, digits + sizeof digits - n, n);
}

static void put_signed(Text *t, int v) {
    if (v < 0) put(t, "-", 1);
    put_number(t, v < 0 ? 0 - (uint64_t)v : (uint64_t)v);
}

static void format_list(char *out, size_t cap, const char *format, va_list args) {
    Text t = {out, cap, 0};
    for (const char *f = format; *f; f++) {
        if (*f != '%') {
            put(&t, f, 1);
            continue;
        }
        switch (*++f) {
        case 's': {
            const char *s = va_arg(args, const char *);
            put(&t, s, strlen(s));
            break;
        }
        case 'c': {
            char c = (char)va_arg(args, int);
            put(&t, &c, 1);
            break;
        }
        case 'd': put_signed(&t, va_arg(args, int)); break;
        case 'u': put_number(&t, va_arg(args, unsigned)); break;
        case 'z': put_number(&t, va_arg(args, size_t)); break;
        default: put(&t, f, 1);
        }
    }
    out[t.n] = 0;
}

void format_text(char *out, size_t cap, const char *format, ...) {
    va_list args;
    va_start(args, format);
    format_list(out, cap, format, args);
    va_end(args);
}

int fail(SmolErr *err, int code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    format_list(err->text, sizeof err->text, format, args);
    va_end(args);
    err->code = code;
    return code;
}

// ---- arena ----

int mul_fits(size_t a, size_t b, size_t *r) {
    *r = a * b;
    return b == 0 || *r / b == a;
}

void *arena_take(SmolArena *a, size_t bytes, const char *name, SmolErr *err) {
    size_t padded = (bytes + 63) & ~(size_t)63;
    if (padded < bytes || padded > SIZE_MAX - a->used) {
        fail(err, SMOL_E_MEMORY, "%s: %z bytes is more than this machine can address", name, bytes);
        return NULL;
    }
    if (a->note) a->note(a->user, name, padded);
    if (a->base && padded > a->size - a->used) {
        fail(err, SMOL_E_MEMORY, "out of memory: %s needs %z bytes, %z of %z are left", name, padded, a->size - a->used,
             a->size);
        return NULL;
    }
    void *p = a->base ? a->base + a->used : NULL;
    a->used += padded;
    return p;
}

// ---- SHA-256 (FIPS 180-4) ----

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotr(uint32_t x, int n) { return x >> n | x << (32 - n); }

static void sha256_block(uint32_t h[8], const uint8_t *p) {
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++) {
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    }
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (rotr(a, 7) ^ rotr(a, 18) ^ a >> 3) + w[i - 7] + (rotr(b, 17) ^ rotr(b, 19) ^ b >> 10);
    }
    memcpy(s, h, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t s1 = rotr(s[4], 6) ^ rotr(s[4], 11) ^ rotr(s[4], 25);
        uint32_t s0 = rotr(s[0], 2) ^ rotr(s[0], 13) ^ rotr(s[0], 22);
        uint32_t t1 = s[7] + s1 + ((s[4] & s[5]) ^ (~s[4] & s[6])) + K[i] + w[i];
        uint32_t t2 = s0 + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) h[i] += s[i];
}

void smol_sha256_init(SmolSha256 *s) {
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(s->h, start, sizeof start);
    s->n = 0;
}

void smol_sha256_add(SmolSha256 *s, const void *bytes, size_t n) {
    const uint8_t *p = bytes;
    size_t held = s->n % 64;
    s->n += n;
    if (held + n < 64) {
        memcpy(s->block + held, p, n);
        return;
    }
    if (held) {
        memcpy(s->block + held, p, 64 - held);
        sha256_block(s->h, s->block);
        p += 64 - held;
        n -= 64 - held;
    }
    for (; n >= 64; p += 64, n -= 64) sha256_block(s->h, p);
    memcpy(s->block, p, n);
}

void smol_sha256_end(SmolSha256 *s, uint8_t digest[32]) {
    uint64_t bits = s->n * 8;
    uint8_t tail[72] = {0x80};
    size_t pad = (s->n % 64 < 56 ? 56 : 120) - s->n % 64;
    for (int i = 0; i < 8; i++) tail[pad + (size_t)i] = (uint8_t)(bits >> (56 - 8 * i));
    smol_sha256_add(s, tail, pad + 8);
    for (int i = 0; i < 32; i++) digest[i] = (uint8_t)(s->h[i / 4] >> (24 - 8 * (i % 4)));
}
