// support.c: error lines, the arena and UTF-8: what the core uses in place of stdio and malloc.

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

void *arena_take(SmolArena *a, uint64_t bytes, const char *name, SmolErr *err) {
    uint64_t padded = (bytes + 63) & ~(uint64_t)63;
    if (padded < bytes || padded > SIZE_MAX - a->used) {
        fail(err, SMOL_E_MEMORY, "out of memory: %s needs more than this machine can address", name);
        return NULL;
    }
    if (a->note) a->note(a->user, name, (size_t)padded);
    if (a->base && padded > a->size - a->used) {
        fail(err, SMOL_E_MEMORY, "out of memory: %s needs %z bytes, %z of %z are left", name, (size_t)padded, a->size - a->used,
             a->size);
        return NULL;
    }
    void *p = a->base ? a->base + a->used : NULL;
    a->used += (size_t)padded;
    return p;
}

// ---- UTF-8 ----

int utf8_decode(const uint8_t *p, size_t n, uint32_t *c) {
    uint8_t lead = p[0];
    *c = lead;
    if (lead < 0x80) return 1;
    if (lead < 0xc2 || lead > 0xf4) return -1;
    int length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    *c &= 0xffu >> (length + 1);
    // The second byte's range keeps out overlong forms, surrogates and all past U+10FFFF (Unicode table 3-7).
    uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    for (int i = 1; i < length; i++) {
        if ((size_t)i == n || p[i] < low || p[i] > high) return -i;
        *c = *c << 6 | (p[i] & 0x3f);
        low = 0x80;
        high = 0xbf;
    }
    return length;
}
