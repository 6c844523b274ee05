// test_model.c: a model, its memory plan and the engine's checks of what it is given.

#include "quantised.h"
#include "try_model.h"

#define FILE_NAME "tests/golden/tiny.smol"

static unsigned char *whole;
static size_t n_whole;
static SmolModel model;  // of the unchanged file

// ---- addresses ----

static void test_alignment(void) {
    unsigned char *room = memory_new(n_whole + 64);
    for (size_t at = 0; at < 64; at++) {
        SmolErr err;
        memcpy(room + at, whole, n_whole);
        CHECK(try_model(room + at, n_whole, 1, &err) && !err.code == (at % 16 == 0), "a model %zu bytes past a multiple of 64",
              at);
    }
    free(room);
}

// ---- a model that reads text only ----


// The same file without its eye: the directory begins with the embedding table, and the decoder's tensors have Llama's names.
static unsigned char *text_only(void) {
    unsigned char *copy = malloc(n_whole), *directory = copy + get_u64(whole + 48);
    memcpy(copy, whole, n_whole);
    int first = model_places(&model.config).tok_emb, n = model.n_tensors - first;
    memmove(directory, directory + first * 160, (size_t)n * 160);
    for (int i = 0; i < n; i++) {
        char name[96] = {0}, *entry = (char *)directory + i * 160;
        int is_decoder = !strncmp(entry, "model.text_model.", 17);
        snprintf(name, sizeof name, "%s%s", is_decoder ? "model." : "", entry + (is_decoder ? 17 : 0));
        memcpy(entry, name, sizeof name);
    }
    put_u32(copy + 56, (uint32_t)n);
    put_u32(copy + 64, SMOL_LLAMA);
    memset(copy + 120, 0, 224 - 120);
    put_u32(copy + 232, 0xffffffff);
    return copy;
}

static void test_text_only(void) {
    static const unsigned char flips[] = {1, 2, 0x10, 0x80, 0xff};
    unsigned char *copy = text_only();
    SmolModel m;
    SmolErr err = blank_error();
    SmolTiling t;
    size_t n;
    CHECK(smol_open(&m, copy, n_whole, &err) == 0, "%s", err.text);
    CHECK(try_model(copy, n_whole, 1, &err) && err.code == 0, "a text model works: %s", err.text);
    SmolLimits l = modest_limits(&m), sees = l, keeps = l;
    sees.vision = 1;
    keeps.n_image_tokens = 1;
    CHECK(smol_plan(&m, &l, NULL, NULL, &n, &err) == 0, "%s", err.text);
    CHECK(smol_plan(&m, &sees, NULL, NULL, &n, &err) == SMOL_E_LIMIT && is_good_error(&err, err.code), "no vision");
    CHECK(smol_plan(&m, &keeps, NULL, NULL, &n, &err) == SMOL_E_LIMIT && is_good_error(&err, err.code), "no features");
    CHECK(smol_picture_tiling(&m.config, 20, 20, 1, &t, &err) == SMOL_E_LIMIT && is_good_error(&err, err.code), "no pictures");
    for (size_t i = 0; i < 512; i++) {
        for (size_t k = 0; k < sizeof flips; k++) {
            copy[i] ^= flips[k];
            CHECK(try_model(copy, n_whole, 1, &err), "text only, byte %zu changed by %d", i, flips[k]);
            int is_count = i >= 120 && i < 176 && i / 4 != 144 / 4;  // v_eps is nobody's business
            if (is_count) CHECK(smol_open(&m, copy, n_whole, &err) != 0, "byte %zu of an eye that is not there", i);
            copy[i] ^= flips[k];
        }
    }
    free(copy);
}

// ---- what a model is known by ----

// The digest covers header, tokenizer, provenance and directory, as FORMAT.md says.
static void test_digest(void) {
    SmolSha256 s;
    uint8_t digest[32];
    smol_sha256_init(&s);
    smol_sha256_add(&s, whole, 512);
    smol_sha256_add(&s, whole + get_u64(whole + 16), (size_t)get_u64(whole + 24));
    smol_sha256_add(&s, whole + get_u64(whole + 32), (size_t)get_u64(whole + 40));
    smol_sha256_add(&s, whole + get_u64(whole + 48), (size_t)model.n_tensors * 160);
    smol_sha256_end(&s, digest);
    CHECK(memcmp(digest, model.sha256, 32) == 0, "the model's digest");
}

// ---- memory ----

typedef struct {
    size_t total;
    int n;
} Notes;

static void note(void *user, const char *name, size_t bytes) {
    Notes *notes = user;
    notes->total += bytes;
    notes->n += name[0] != 0 && bytes % 64 == 0;
}

static void test_plan(void) {
    const SmolLimits variants[] = {
        {.context = 1, .batch = 1, .n_threads = 1},
        {.context = 100, .batch = 7, .n_threads = 3, .all_logits = 1},
        {.context = 100, .batch = 7, .n_image_tokens = 50, .n_threads = 2, .vision = 1},
        {.context = model.config.max_positions, .batch = 128, .n_image_tokens = 4, .n_threads = 1, .vision = 1, .kernel = "c"},
    };
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        const SmolLimits *l = &variants[i];
        SmolErr err = blank_error();
        SmolEngine *e = NULL;
        Notes notes = {0};
        size_t n, again;
        CHECK(smol_plan(&model, l, note, &notes, &n, &err) == 0, "plan %zu: %s", i, err.text);
        CHECK(smol_plan(&model, l, NULL, NULL, &again, &err) == 0 && again == n, "plan %zu twice", i);
        CHECK(n % 64 == 0 && notes.n > 10 && (l->vision ? notes.total > n : notes.total == n), "plan %zu: the buffers add up",
              i);
        unsigned char *exact = memory_new(n), *less = memory_new(n);
        int code = smol_start(&e, &model, l, exact, n, &err);
        CHECK(code == 0, "start %zu with what was planned: %s", i, err.text);
        CHECK(!strcmp(smol_kernel_name(e), l->kernel ? l->kernel : smol_kernel(0)), "kernel %s", smol_kernel_name(e));
        err = blank_error();
        code = smol_start(&e, &model, l, less, n - 1, &err);
        CHECK(code == SMOL_E_MEMORY && is_good_error(&err, code), "start %zu with a byte less", i);
        free(exact);
        free(less);
    }
}

// Every size of arena below the plan, in steps: an error, and no byte beyond it is touched.
static void test_small_arenas(void) {
    SmolLimits l = modest_limits(&model);
    SmolErr err;
    SmolEngine *e;
    size_t n;
    CHECK(smol_plan(&model, &l, NULL, NULL, &n, &err) == 0, "%s", err.text);
    for (size_t size = 0; size < n; size += size < 2048 ? 1 : 320) {
        unsigned char *m = memory_new(size);
        err = blank_error();
        int code = smol_start(&e, &model, &l, m, size, &err);
        CHECK(code == SMOL_E_MEMORY && is_good_error(&err, code), "an arena of %zu of %zu bytes", size, n);
        free(m);
    }
}

// One byte less than the plan is refused whatever the limits are, and what is no arena, too.
static void test_every_plan(void) {
    SmolErr err;
    SmolEngine *e;
    size_t n;
    for (int i = 0; i < 300; i++) {
        SmolLimits l = {.context = 1 + i % model.config.max_positions, .batch = 1 + i * 7 % 40, .n_image_tokens = i % 3 * 17,
                        .n_threads = 1 + i % 5, .vision = i % 2, .all_logits = i / 2 % 2};
        CHECK(smol_plan(&model, &l, NULL, NULL, &n, &err) == 0, "%s", err.text);
        unsigned char *m = memory_new(n + 64);
        for (int at = 0; at <= 64; at += 1 + i % 9) {
            err = blank_error();
            int code = smol_start(&e, &model, &l, m + at, n, &err);
            CHECK(at % 64 ? code == SMOL_E_MEMORY && is_good_error(&err, code) : code == 0,
                  "an arena %d bytes past a multiple of 64", at);
        }
        err = blank_error();
        int code = smol_start(&e, &model, &l, m, n - 1, &err);
        CHECK(code == SMOL_E_MEMORY && is_good_error(&err, code), "limits %d with a byte less", i);
        CHECK(smol_start(&e, &model, &l, NULL, n, &err) == SMOL_E_MEMORY && is_good_error(&err, SMOL_E_MEMORY), "no arena");
        free(m);
    }
}

static void test_wrong_limits(void) {
    SmolLimits good = modest_limits(&model);
    SmolLimits bad[] = {good, good, good, good, good, good, good, good, good};
    bad[0].context = 0;
    bad[1].context = -1;
    bad[2].context = model.config.max_positions + 1;
    bad[3].batch = 0;
    bad[4].n_image_tokens = -1;
    bad[5].n_threads = 0;
    bad[6].n_threads = 1 << 30;
    bad[7].kernel = "none";
    char name[1000];
    memset(name, 'k', sizeof name);
    name[sizeof name - 1] = 0;
    bad[8].kernel = name;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        SmolErr err = blank_error();
        size_t n = 0;
        int code = smol_plan(&model, &bad[i], NULL, NULL, &n, &err);
        CHECK(code == SMOL_E_LIMIT && is_good_error(&err, code), "plan with wrong limits %zu", i);
        SmolEngine *e;
        err = blank_error();
        code = smol_start(&e, &model, &bad[i], NULL, 0, &err);
        CHECK(code == SMOL_E_LIMIT && is_good_error(&err, code), "start with wrong limits %zu", i);
    }
}

// ---- the engine's checks of its input ----

static SmolEngine *start(const SmolLimits *l, unsigned char **m) {
    SmolErr err;
    SmolEngine *e = NULL;
    size_t n;
    if (smol_plan(&model, l, NULL, NULL, &n, &err)) exit(2);
    *m = memory_new(n);
    if (smol_start(&e, &model, l, *m, n, &err)) exit(2);
    return e;
}

static void test_wrong_input(void) {
    SmolLimits l = modest_limits(&model);
    l.vision = 0;
    unsigned char *m;
    SmolEngine *e = start(&l, &m);
    SmolErr err = blank_error();
    const float *logits;
    int image = model.config.image_token_id;
    int32_t ids[9] = {0}, negative[] = {-1}, large[] = {model.config.vocab_size}, images[] = {image, image};
    int code = smol_forward(e, ids, 9, NULL, 0, &logits, &err);
    CHECK(code == SMOL_E_LIMIT && is_good_error(&err, code), "nine tokens into eight");
    code = smol_forward(e, ids, 0, NULL, 0, &logits, &err);
    CHECK(code == SMOL_E_LIMIT && is_good_error(&err, code), "no tokens");
    code = smol_forward(e, negative, 1, NULL, 0, &logits, &err);
    CHECK(code == SMOL_E_LIMIT && is_good_error(&err, code), "a negative id");
    code = smol_forward(e, large, 1, NULL, 0, &logits, &err);
    CHECK(code == SMOL_E_LIMIT && is_good_error(&err, code), "an id past the vocabulary");
    code = smol_forward(e, images, 2, smol_features(e), 1, &logits, &err);
    CHECK(code == SMOL_E_LIMIT && is_good_error(&err, code), "two image tokens, one row of features");
    code = smol_encode_tile(e, NULL, NULL, &err);
    CHECK(code == SMOL_E_LIMIT && is_good_error(&err, code), "a tile without vision");
    CHECK(smol_position(e) == 0, "nothing of this was taken");
    CHECK(smol_forward(e, ids, 8, NULL, 0, &logits, &err) == 0 && smol_position(e) == 8, "eight tokens into eight");
    code = smol_forward(e, ids, 1, NULL, 0, &logits, &err);
    CHECK(code == SMOL_E_LIMIT && is_good_error(&err, code), "a ninth");
    smol_rewind(e, 9);
    smol_rewind(e, -1);
    CHECK(smol_position(e) == 8, "no rewinding to where it never was");
    free(m);
}

// ---- a prompt in parts ----

// Logits after ids, in one call or in calls of n tokens, pictures included; with rewinding, after a detour.
static void logits_in_parts(float *out, const int32_t *ids, int n_ids, int part, int batch, int detour) {
    SmolLimits l = modest_limits(&model);
    l.context = 64;
    l.batch = batch;
    unsigned char *m;
    SmolEngine *e = start(&l, &m);
    SmolErr err;
    const float *logits = NULL;
    int used = 0, dim = model.config.dim;
    for (int i = 0; i < model.config.image_seq_len * dim; i++) smol_features(e)[i] = (float)(i % 23 - 11) / 7;
    for (int at = 0; at < n_ids; at += part) {
        int n = n_ids - at < part ? n_ids - at : part, n_image = 0;
        for (int i = at; i < at + n; i++) n_image += ids[i] == model.config.image_token_id;
        if (detour) {
            const int32_t other[5] = {5, 4, 3, 2, 1};
            CHECK(smol_forward(e, other, 5, NULL, 0, &logits, &err) == 0, "%s", err.text);
            smol_rewind(e, at);
        }
        CHECK(smol_forward(e, ids + at, n, smol_features(e) + used * dim, n_image, &logits, &err) == 0, "%s", err.text);
        used += n_image;
    }
    memcpy(out, logits, (size_t)model.config.vocab_size * sizeof *out);
    free(m);
}

static void test_parts(void) {
    enum { N = 40 };
    int32_t ids[N];
    size_t bytes = (size_t)model.config.vocab_size * sizeof(float);
    float *all = malloc(bytes), *other = malloc(bytes);
    for (int i = 0; i < N; i++) {
        ids[i] = (i * 37 + 11) % model.config.vocab_size;
        if (ids[i] == model.config.image_token_id) ids[i] = 0;
        if (i >= 9 && i < 9 + model.config.image_seq_len) ids[i] = model.config.image_token_id;
    }
    logits_in_parts(all, ids, N, N, N, 0);
    for (int part = 1; part <= N; part += part < 6 ? 1 : 7) {
        for (int batch = 1; batch <= 17; batch += 4) {
            logits_in_parts(other, ids, N, part, batch, part % 2);
            CHECK(memcmp(all, other, bytes) == 0, "parts of %d in batches of %d", part, batch);
        }
    }
    free(all);
    free(other);
}

// ---- cancelling ----

static int cancel(void *user, const char *stage, int done, int total) {
    int *calls = user;
    (void)stage, (void)done, (void)total;
    return ++*calls == 2;
}

static void test_cancel(void) {
    SmolLimits l = modest_limits(&model);
    unsigned char *m;
    SmolEngine *e = start(&l, &m);
    SmolErr err = blank_error();
    const float *logits;
    const int32_t ids[8] = {0};
    int calls = 0;
    smol_listen(e, cancel, NULL, &calls);
    int code = smol_forward(e, ids, 8, NULL, 0, &logits, &err);
    CHECK(code == SMOL_E_CANCELLED && calls == 2 && smol_position(e) == 4, "cancelled after two batches");
    smol_rewind(e, 0);
    CHECK(smol_forward(e, ids, 8, NULL, 0, &logits, &err) == 0, "and again, to the end");
    smol_rewind(e, 0);
    calls = -2;
    CHECK(smol_forward(e, ids, 8, NULL, 0, &logits, &err) == 0 && calls == 2, "too late to be cancelled");
    float *pixels = calloc((size_t)(3 * model.config.tile_size * model.config.tile_size), sizeof *pixels);
    for (int first = 0; first < 2; first++) {
        calls = first;
        CHECK(smol_encode_tile(e, pixels, smol_features(e), &err) == SMOL_E_CANCELLED && calls == 2,
              "a tile, cancelled after a layer");
    }
    CHECK(smol_encode_tile(e, pixels, smol_features(e), &err) == 0, "and again, to the end");
    free(pixels);
    free(m);
}

int main(void) {
    SmolErr err;
    whole = read_file(FILE_NAME, &n_whole);
    CHECK(whole && smol_open(&model, whole, n_whole, &err) == 0, "%s", whole ? err.text : "cannot read " FILE_NAME);
    if (n_failed == 0) {
        test_alignment();
        test_text_only();
        test_digest();
        test_plan();
        test_small_arenas();
        test_every_plan();
        test_wrong_limits();
        test_wrong_input();
        test_parts();
        test_cancel();
    }
    free(whole);
    return test_end("model");
}
