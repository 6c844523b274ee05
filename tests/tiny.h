// tiny.h: the tiny model of the C tests, its picture, and what the reference makes of the two. tests/oracle.py writes
// tiny.smol, tiny.ppm and tiny.tsv; the numbers in the last come from transformers.

#ifndef TINY_H
#define TINY_H

#include "smol.h"
#include "test.h"

#include <stdint.h>

enum { TINY_WORDS = 4096, TINY_LINES = 64, TINY_IDS = 512, TINY_TEXT = 4096 };

// A line of tiny.tsv: key, count, then as many values.
typedef struct {
    const char *key;
    char **values;
    int n;
} TinyLine;

typedef struct {
    SmolModel model;
    SmolPicture picture;
    SmolTiling tiling;
    SmolTiles tiles;
    TinyLine lines[TINY_LINES];
    int n_lines;
    int32_t ids[TINY_IDS], tokens[TINY_IDS];  // prompt and answer
    int n_ids, n_tokens;
} Tiny;

static inline void *aligned_memory(size_t n) {
    void *p = aligned_alloc(64, (n + 63) / 64 * 64);
    if (!p) exit(2);
    return p;
}

static inline unsigned char *tiny_read(const char *folder, const char *name, size_t *n) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    unsigned char *bytes = read_file(path, n);
    if (!bytes) {
        fprintf(stderr, "%s cannot be read\n", path);
        exit(2);
    }
    bytes[*n] = 0;
    return bytes;
}

// Splits the table in place into lines of words. It lives until the program ends.
static inline void tiny_split(Tiny *t, char *text) {
    static char *words[TINY_WORDS];
    int n_words = 0;
    for (char *line = strtok(text, "\n"); line && t->n_lines < TINY_LINES; line = strtok(NULL, "\n")) {
        TinyLine *l = &t->lines[t->n_lines++];
        l->key = line;
        l->values = words + n_words + 1;
        for (char *p = line; n_words < TINY_WORDS && (p = strchr(p, '\t')); ) {
            *p++ = 0;
            words[n_words++] = p;
        }
        l->n = (int)(words + n_words - l->values);
        if (l->n != atoi(l->values[-1])) exit(2);
    }
}

static inline const TinyLine *tiny_line(const Tiny *t, const char *key) {
    for (int i = 0; i < t->n_lines; i++) {
        if (!strcmp(t->lines[i].key, key)) return &t->lines[i];
    }
    fprintf(stderr, "tiny.tsv has no line %s\n", key);
    exit(2);
}

static inline int tiny_ids(const Tiny *t, const char *key, int32_t *out) {
    const TinyLine *l = tiny_line(t, key);
    for (int i = 0; i < l->n && i < TINY_IDS; i++) out[i] = atoi(l->values[i]);
    return l->n;
}

static inline void tiny_fail(const SmolErr *err) {
    fprintf(stderr, "%s\n", err->text);
    exit(2);
}

static inline void tiny_picture(Tiny *t, const char *folder) {
    SmolErr err;
    size_t n;
    const SmolConfig *c = &t->model.config;
    unsigned char *bytes = tiny_read(folder, "tiny.ppm", &n);
    if (smol_picture_probe(&t->picture, bytes, n, &err) ||
        smol_picture_tiling(c, t->picture.width, t->picture.height, 1, &t->tiling, &err)) {
        tiny_fail(&err);
    }
    SmolArena arena = {.size = smol_picture_bytes(c, &t->picture, &t->tiling)};
    arena.base = aligned_memory(arena.size);
    if (smol_picture_load(c, &t->picture, &t->tiling, &arena, &t->tiles, &err)) tiny_fail(&err);
}

static inline void tiny_open(Tiny *t, const char *folder) {
    SmolErr err;
    size_t n;
    memset(t, 0, sizeof *t);
    unsigned char *bytes = tiny_read(folder, "tiny.smol", &n);
    if (smol_open(&t->model, bytes, n, &err)) tiny_fail(&err);
    tiny_split(t, (char *)tiny_read(folder, "tiny.tsv", &n));
    t->n_ids = tiny_ids(t, "ids", t->ids);
    t->n_tokens = tiny_ids(t, "tokens", t->tokens);
    tiny_picture(t, folder);
}

// An engine in fresh memory full of NaN: what is read before it is written shows. *arena is to be freed.
static inline SmolEngine *tiny_start(const Tiny *t, const SmolLimits *limits, void **arena) {
    SmolErr err;
    SmolEngine *e;
    size_t bytes;
    if (smol_plan(&t->model, limits, NULL, NULL, &bytes, &err)) tiny_fail(&err);
    *arena = memset(aligned_memory(bytes), 0xff, bytes);
    if (smol_start(&e, &t->model, limits, *arena, bytes, &err)) tiny_fail(&err);
    return e;
}

// All tiles of the picture to the engine's features; returns the number of rows.
static inline int tiny_encode(const Tiny *t, SmolEngine *e, SmolSha256 *pixel_digest) {
    SmolErr err;
    const SmolConfig *c = &t->model.config;
    size_t n_pixels = (size_t)(3 * c->tile_size * c->tile_size);
    float *pixels = aligned_memory(n_pixels * sizeof *pixels);
    for (int i = 0; i < t->tiling.n_tiles; i++) {
        smol_tile_pixels(c, &t->tiles, i, pixels);
        if (pixel_digest) smol_sha256_add(pixel_digest, pixels, n_pixels * sizeof *pixels);
        if (smol_encode_tile(e, pixels, smol_features(e) + i * c->image_seq_len * c->dim, &err)) tiny_fail(&err);
    }
    free(pixels);
    return t->tiling.n_tokens;
}

#endif
