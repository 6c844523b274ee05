// test_engine.c: the engine against transformers, from picture and words to the answer, with no Python: tests/golden/tiny.*
// holds a model, a picture and what the reference makes of them. tests/test_parity.py compares much more.

#include "tiny.h"

#include <math.h>

static Tiny tiny;

// Error relative to the tensor's largest magnitude; test_parity.py says why these.
static const double vision_limit = 1e-5, decoder_limit = 2e-5;
static const double margin_limit = 1e-3;  // a lead below this is a tie that rounding may decide

static const char *const question = "What is it?";

// ---- what the engine tells while it works, put together by name ----

typedef struct {
    char name[96];
    float *x;
    size_t n;
    int n_cols;
} Stage;

static Stage stages[TINY_LINES];
static int n_stages;

static Stage *stage_of(const char *name) {
    for (int i = 0; i < n_stages; i++) {
        if (!strcmp(stages[i].name, name)) return &stages[i];
    }
    return NULL;
}

static void hear(void *user, const char *name, const float *x, int n_rows, int n_cols, int ld) {
    (void)user;
    Stage *s = stage_of(name);
    if (!s) {
        s = &stages[n_stages++];
        *s = (Stage){.n_cols = n_cols};
        snprintf(s->name, sizeof s->name, "%s", name);
    }
    s->x = realloc(s->x, (s->n + (size_t)n_rows * (size_t)n_cols) * sizeof *x);
    if (!s->x) exit(2);
    for (int i = 0; i < n_rows; i++, s->n += (size_t)n_cols) memcpy(s->x + s->n, x + i * ld, (size_t)n_cols * sizeof *x);
}

static void forget_stages(void) {
    while (n_stages) free(stages[--n_stages].x);
}

// ---- tests ----

static void test_model(void) {
    SmolErr err;
    for (int i = 0; i < tiny.model.n_tensors; i++) CHECK(smol_verify(&tiny.model, i, &err) == 0, "%s", err.text);
}

static void test_prompt(void) {
    SmolErr err;
    char text[TINY_TEXT];
    SmolSpan user[8];
    int32_t ids[TINY_TEXT];
    SmolPrompt prompt = {.text = text, .text_cap = sizeof text, .user = user, .user_cap = 8};
    SmolMessage message = {"user", question, strlen(question), &tiny.tiling, 1, NULL};
    if (smol_prompt_chat(&tiny.model, &message, 1, &prompt, &err)) tiny_fail(&err);
    SmolArena scratch = {.size = smol_tokenize_bytes(&tiny.model, prompt.n_text)};
    scratch.base = aligned_memory(scratch.size);
    long n = smol_tokenize(&tiny.model, &prompt, ids, &scratch, &err);
    CHECK(n == tiny.n_ids, "%ld ids", n);
    CHECK(n == tiny.n_ids && !memcmp(ids, tiny.ids, (size_t)n * sizeof *ids), "other ids");
    free(scratch.base);
}

static void test_pixels(SmolEngine *e) {
    SmolSha256 digest;
    unsigned char bytes[32];
    char text[65];
    smol_sha256_init(&digest);
    tiny_encode(&tiny, e, &digest);
    smol_sha256_end(&digest, bytes);
    hex(text, bytes);
    CHECK(!strcmp(text, tiny_line(&tiny, "pixels_sha256")->values[0]), "pixels have SHA-256 %s", text);
}

// values: name, largest magnitude, rows, columns, samples spread evenly from the first element to the last.
static void check_stage(const TinyLine *line) {
    const char *name = line->values[0];
    const Stage *s = stage_of(name);
    double magnitude = atof(line->values[1]), worst = 0, largest = 0;
    int n_samples = line->n - 4, is_vision = strstr(name, "vision_model") || strstr(name, "connector");
    CHECK(s != NULL, "%s was not traced", name);
    if (!s) return;
    CHECK(s->n_cols == atoi(line->values[3]), "%s has %d columns", name, s->n_cols);
    for (int i = 0; i < n_samples; i++) {
        size_t place = (size_t)i * (s->n - 1) / (size_t)(n_samples - 1);
        double error = fabs(s->x[place] - atof(line->values[4 + i]));
        if (!(error <= worst)) worst = error;
    }
    for (size_t i = 0; i < s->n; i++) largest = fabsf(s->x[i]) > largest ? fabsf(s->x[i]) : largest;
    if (!(fabs(largest - magnitude) <= worst)) worst = fabs(largest - magnitude);
    double limit = is_vision ? vision_limit : decoder_limit;
    CHECK(worst < limit * magnitude, "%s: error %g of %g", name, worst, magnitude);
}

static void check_logits(const float *logits) {
    const TinyLine *line = tiny_line(&tiny, "last_logits");
    double worst = 0, magnitude = 0;
    CHECK(line->n == tiny.model.config.vocab_size, "%d logits", line->n);
    for (int i = 0; i < line->n; i++) {
        double expected = atof(line->values[i]), error = fabs(logits[i] - expected);
        if (!(error <= worst)) worst = error;
        if (fabs(expected) > magnitude) magnitude = fabs(expected);
    }
    CHECK(worst < decoder_limit * magnitude, "error %g of %g", worst, magnitude);
}

// Greedy tokens, compared while the reference's choice is clear.
static void check_answer(SmolEngine *e, const float *logits) {
    SmolErr err;
    SmolSampling greedy = {.top_p = 1};
    const TinyLine *margins = tiny_line(&tiny, "margins");
    CHECK(margins->n == tiny.n_tokens && tiny.n_tokens == 64, "%d tokens", tiny.n_tokens);
    for (int i = 0; i < tiny.n_tokens && atof(margins->values[i]) > margin_limit; i++) {
        int32_t id = smol_sample(e, logits, &greedy);
        CHECK(id == tiny.tokens[i], "token %d is %d, not %d", i, (int)id, (int)tiny.tokens[i]);
        if (smol_forward(e, &tiny.tokens[i], 1, NULL, 0, &logits, &err)) tiny_fail(&err);
    }
}

static void test_stages(const char *kernel) {
    void *arena;
    SmolErr err;
    const float *logits;
    SmolLimits limits = {.context = tiny.n_ids + tiny.n_tokens, .batch = 48, .n_image_tokens = tiny.tiling.n_tokens,
                         .n_threads = 1, .vision = 1, .all_logits = 1, .kernel = kernel};
    SmolEngine *e = tiny_start(&tiny, &limits, &arena);
    smol_listen(e, NULL, hear, NULL);
    test_pixels(e);
    if (smol_forward(e, tiny.ids, tiny.n_ids, smol_features(e), tiny.tiling.n_tokens, &logits, &err)) tiny_fail(&err);
    int n_lines = 0;
    for (int i = 0; i < tiny.n_lines; i++) {
        if (strcmp(tiny.lines[i].key, "stage") != 0) continue;
        check_stage(&tiny.lines[i]);
        n_lines++;
    }
    CHECK(n_lines == n_stages, "%d stages were traced, the reference has %d", n_stages, n_lines);
    check_logits(logits);
    smol_listen(e, NULL, NULL, NULL);
    check_answer(e, logits);
    forget_stages();
    free(arena);
}

int main(int argc, char **argv) {
    tiny_open(&tiny, argc > 1 ? argv[1] : "tests/golden");
    test_model();
    test_prompt();
    for (int k = 0; smol_kernel(k); k++) test_stages(smol_kernel(k));
    return test_end("test_engine");
}
