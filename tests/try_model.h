// try_model.h: opens bytes as a model file and runs what opens: a clean error or a model that works, nothing else.

#ifndef TRY_MODEL_H
#define TRY_MODEL_H

#include "../internal.h"
#include "test.h"

// Aligned bytes of exactly n rounded up to 64.
static inline unsigned char *memory_new(size_t n) {
    unsigned char *p = aligned_alloc(64, (n + 63) / 64 * 64 + (n == 0) * 64);
    if (!p) exit(2);
    return p;
}

// An error is one printable line that fits its buffer, and has a code.
static inline int is_good_error(const SmolErr *err, int code) {
    const char *end = memchr(err->text, 0, sizeof err->text);
    if (code >= 0 || err->code != code || !end || end == err->text) return 0;
    for (const char *c = err->text; c < end; c++) {
        if (*c < ' ' || *c > '~') return 0;
    }
    return 1;
}

static inline SmolErr blank_error(void) {
    SmolErr err;
    memset(&err, 0x7f, sizeof err);  // so that a line that is not written shows
    return err;
}

static inline SmolLimits modest_limits(const SmolModel *m) {
    int context = m->config.max_positions < 8 ? m->config.max_positions : 8;
    int sees = m->config.family == SMOL_SMOLVLM;
    return (SmolLimits){.context = context, .batch = 2, .n_image_tokens = m->config.image_seq_len, .n_threads = 1,
                        .vision = sees};
}

// A tile, if the model has an eye, and a short prompt, with the tile's features if they fit. Returns 0 or the error's code.
static inline int run_a_little(const SmolModel *m, SmolEngine *e, SmolErr *err) {
    const SmolConfig *c = &m->config;
    const float *logits, *features = NULL;
    int32_t ids[8] = {0, c->vocab_size - 1, c->vocab_size / 2};
    int n_ids = c->max_positions < 3 ? 1 : 3, code = 0;
    if (c->family == SMOL_SMOLVLM) {
        float *pixels = calloc((size_t)3 * (size_t)c->tile_size * (size_t)c->tile_size, sizeof *pixels);
        if (!pixels) exit(2);
        code = smol_encode_tile(e, pixels, smol_features(e), err);
        free(pixels);
        if (code) return code;
        int fits = c->image_seq_len + 2 <= (c->max_positions < 8 ? c->max_positions : 8), other = c->image_token_id == 0;
        for (int i = 0; fits && i < c->image_seq_len; i++) ids[1 + i] = c->image_token_id;
        if (fits) {
            features = smol_features(e);
            n_ids = c->image_seq_len + 2;
            ids[0] = ids[n_ids - 1] = other;
            if (other >= c->vocab_size) return 0;  // a vocabulary of nothing but the image token
        }
    }
    if ((code = smol_forward(e, ids, n_ids, features, features ? c->image_seq_len : 0, &logits, err))) return code;
    SmolSampling s = {.temperature = 1, .top_p = 0.9f, .rng = 1};
    int32_t id = smol_sample(e, logits, &s);
    CHECK(id >= 0 && id < c->vocab_size, "sampled %d", (int)id);
    return 0;
}

static inline int tokenizes(const SmolModel *m) {
    char text[] = "What is it? <image>42 \xc3\xa9\xe6\x97\xa5\n<|im_start|>";
    SmolErr err = blank_error();
    SmolPrompt p = {.text = text, .n_text = sizeof text - 1};
    size_t n = smol_tokenize_bytes(m, p.n_text);
    unsigned char *scratch = memory_new(n);
    SmolArena arena = {.base = scratch, .size = n};
    int32_t *ids = malloc((p.n_text + 1) * sizeof *ids);
    long n_ids = smol_tokenize(m, &p, ids, &arena, &err);
    int good = n_ids >= 0 || is_good_error(&err, (int)n_ids);
    for (long i = 0; i < n_ids; i++) {
        size_t n_text;
        good = good && ids[i] >= 0 && ids[i] < m->config.vocab_size && smol_token_text(m, ids[i], &n_text);
    }
    free(ids);
    free(scratch);
    return good;
}

// Opens n bytes and, if run, plans, starts and runs the model. Returns 1 for a working model or a clean error; err->code is
// 0 or the error's.
static inline int try_model(const unsigned char *bytes, size_t n, int run, SmolErr *err) {
    SmolModel m;
    SmolEngine *e;
    size_t n_arena;
    *err = blank_error();
    int code = smol_open(&m, bytes, n, err);
    if (code) return is_good_error(err, code);
    err->code = 0;
    if (!run) return 1;
    SmolLimits limits = modest_limits(&m);
    code = smol_plan(&m, &limits, NULL, NULL, &n_arena, err);
    if (code) return is_good_error(err, code);
    if (n_arena > (size_t)64 << 20) return 0;  // the limits are modest, so it should be, too
    unsigned char *arena = memory_new(n_arena);
    if (smol_start(&e, &m, &limits, arena, n_arena, err)) return 0;
    code = run_a_little(&m, e, err);
    free(arena);
    if (code) return code == SMOL_E_FORMAT && is_good_error(err, code);  // damaged weights
    err->code = 0;
    return tokenizes(&m);
}

#endif
