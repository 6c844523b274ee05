// fuzz_model.c: any bytes as a model file. One that opens and is small enough runs: a tile, and a token after it.

#include "fuzz.h"

static void run(const SmolModel *m) {
    const SmolConfig *c = &m->config;
    SmolLimits limits = {.context = 4, .batch = 2, .n_image_tokens = c->image_seq_len, .n_threads = 1, .vision = 1};
    SmolErr err = {0};
    SmolEngine *engine;
    size_t bytes;
    int code = smol_plan(m, &limits, NULL, NULL, &bytes, &err);
    if (code != 0) {
        expect_line(code, &err);
        return;
    }
    if (bytes > 1 << 26) return;
    void *arena = fuzz_memory(bytes);
    EXPECT(smol_start(&engine, m, &limits, arena, bytes, &err) == 0);
    size_t n_pixels = 3 * (size_t)c->tile_size * (size_t)c->tile_size;
    float *pixels = calloc(n_pixels, sizeof *pixels);
    const float *logits;
    int32_t id = 0;
    code = smol_encode_tile(engine, pixels, smol_features(engine), &err);
    if (code != 0) expect_line(code, &err);
    code = smol_forward(engine, &id, 1, NULL, 0, &logits, &err);
    if (code != 0) expect_line(code, &err);
    SmolSampling sampling = {.temperature = 1, .top_p = 0.9f, .top_k = 5};
    if (code == 0) id = smol_sample(engine, logits, &sampling);
    EXPECT(id >= 0 && id < c->vocab_size);
    free(pixels);
    free(arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    SmolModel m;
    SmolErr err = {0};
    uint8_t *copy = fuzz_memory(n);  // aligned
    memcpy(copy, data, n);
    int code = smol_open(&m, copy, n, &err);
    if (code != 0) expect_line(code, &err);
    else run(&m);
    free(copy);
    return 0;
}
