// test_batch.c: however a prompt is cut into batches and calls, whatever was forgotten before, with every kernel and
// number of threads: the same logits, bit for bit. The measure is one token at a time in the plain C kernel.

#include "quantised.h"
#include "tiny.h"

typedef struct {
    unsigned char digest[32];  // of all logits, from the prompt's last position to the answer's end
} Bits;

static Tiny tiny;

static int image_tokens_before(int position) {
    int n = 0;
    for (int i = 0; i < position; i++) n += tiny.ids[i] == tiny.model.config.image_token_id;
    return n;
}

// Prompt tokens from .. to - 1 in one call, with the feature rows that belong to them.
static const float *forward_part(SmolEngine *e, int from, int to) {
    SmolErr err;
    const float *logits = NULL;
    int row = image_tokens_before(from), n = image_tokens_before(to) - row;
    const float *features = n ? smol_features(e) + row * tiny.model.config.dim : NULL;
    if (smol_forward(e, tiny.ids + from, to - from, features, n, &logits, &err)) tiny_fail(&err);
    return logits;
}

// The prompt from the engine's position on, in calls of the given sizes by turns (0: all that is left), then the answer.
static Bits answer(SmolEngine *e, const int *sizes, int n_sizes) {
    Bits bits;
    SmolErr err;
    SmolSha256 digest;
    const float *logits = NULL;
    for (int i = 0, from = smol_position(e); from < tiny.n_ids; i++) {
        int size = sizes[i % n_sizes], to = size && from + size < tiny.n_ids ? from + size : tiny.n_ids;
        logits = forward_part(e, from, to);
        from = to;
    }
    smol_sha256_init(&digest);
    for (int i = 0;; i++) {
        smol_sha256_add(&digest, logits, (size_t)tiny.model.config.vocab_size * sizeof *logits);
        if (i == tiny.n_tokens) break;
        if (smol_forward(e, &tiny.tokens[i], 1, NULL, 0, &logits, &err)) tiny_fail(&err);
    }
    smol_sha256_end(&digest, bits.digest);
    return bits;
}

static int kv_int8;

static SmolLimits limits_of(int batch, int n_threads, const char *kernel) {
    return (SmolLimits){.context = tiny.n_ids + tiny.n_tokens, .batch = batch, .n_image_tokens = tiny.tiling.n_tokens,
                        .n_threads = n_threads, .vision = 1, .kv_int8 = kv_int8, .kernel = kernel};
}

static Bits run(const SmolLimits *limits, const int *sizes, int n_sizes) {
    void *arena;
    SmolEngine *e = tiny_start(&tiny, limits, &arena);
    tiny_encode(&tiny, e, NULL);
    Bits bits = answer(e, sizes, n_sizes);
    free(arena);
    return bits;
}

static int equal(Bits a, Bits b) { return memcmp(a.digest, b.digest, 32) == 0; }

static const int whole[] = {0}, single[] = {1}, uneven[] = {3, 1, 17, 2, 16, 5, 31};

static void test_batches(const Bits *expected) {
    static const int batches[] = {1, 2, 3, 4, 5, 15, 16, 17, 31, 64, 128};
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++) {
        for (int all_logits = 0; all_logits < 2; all_logits++) {
            SmolLimits limits = limits_of(batches[i], 1, NULL);
            limits.all_logits = all_logits;
            CHECK(equal(run(&limits, whole, 1), *expected), "batches of %d, all_logits %d", batches[i], all_logits);
            CHECK(equal(run(&limits, uneven, 7), *expected), "uneven calls, batches of %d", batches[i]);
        }
    }
}

static void test_machines(const Bits *expected) {
    static const int threads[] = {1, 2, 5};
    for (int k = 0; smol_kernel(k); k++) {
        for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
            SmolLimits limits = limits_of(128, threads[i], smol_kernel(k));
            CHECK(equal(run(&limits, whole, 1), *expected), "kernel %s, %d threads", smol_kernel(k), threads[i]);
            limits.batch = 7;
            CHECK(equal(run(&limits, uneven, 7), *expected), "kernel %s, %d threads, uneven", smol_kernel(k), threads[i]);
        }
    }
}

// More room than is needed changes the layout of the cache, not the bits.
static void test_context(const Bits *expected) {
    for (int more = 1; more < 40; more += 13) {
        SmolLimits limits = limits_of(32, 1, NULL);
        limits.context += more;
        CHECK(equal(run(&limits, whole, 1), *expected), "context %d", limits.context);
    }
}

// After an answer, all from some position on is forgotten and done again, in other pieces.
static void test_rewind(const Bits *expected) {
    void *arena;
    SmolLimits limits = limits_of(24, 1, NULL);
    SmolEngine *e = tiny_start(&tiny, &limits, &arena);
    tiny_encode(&tiny, e, NULL);
    CHECK(equal(answer(e, whole, 1), *expected), "before the first rewind");
    for (int position = 0; position < tiny.n_ids; position++) {
        smol_rewind(e, position);
        CHECK(smol_position(e) == position, "%d", smol_position(e));
        CHECK(equal(answer(e, uneven + position % 3, 3), *expected), "rewound to %d", position);
    }
    free(arena);
}

// All but the prompt's last token in one engine; their keys and values, kept and given to another, make the same answer.
static void test_kept(const Bits *expected) {
    void *arena, *other_arena;
    SmolLimits limits = limits_of(32, 1, NULL);
    SmolEngine *e = tiny_start(&tiny, &limits, &arena), *other = tiny_start(&tiny, &limits, &other_arena);
    size_t n = smol_kv_bytes(e);
    uint8_t *kept = malloc(n * (size_t)tiny.n_ids);
    tiny_encode(&tiny, e, NULL);
    forward_part(e, 0, tiny.n_ids - 1);
    for (int i = 0; i < tiny.n_ids - 1; i++) smol_kv_get(e, i, kept + (size_t)i * n);
    for (int i = 0; i < tiny.n_ids - 1; i++) CHECK(smol_kv_add(other, kept + (size_t)i * n) == 0, "position %d", i);
    CHECK(smol_position(other) == tiny.n_ids - 1 && equal(answer(other, whole, 1), *expected), "from what was kept");
    while (smol_position(other) < limits.context) CHECK(smol_kv_add(other, kept) == 0, "position %d", smol_position(other));
    CHECK(smol_kv_add(other, kept) == SMOL_E_LIMIT, "one more than the context holds");
    free(kept);
    free(other_arena);
    free(arena);
}

// The same with a cache of f16.
static void test_kept_q8(void) {
    SmolErr err;
    size_t n;
    const SmolModel f32 = tiny.model;
    unsigned char *bytes = quantised_copy(&f32, SMOL_Q8, &n);
    if (smol_open(&tiny.model, bytes, n, &err)) tiny_fail(&err);
    SmolLimits limits = limits_of(32, 1, NULL);
    Bits expected = run(&limits, whole, 1);
    test_kept(&expected);
    tiny.model = f32;
    free(bytes);
}

int main(int argc, char **argv) {
    tiny_open(&tiny, argc > 1 ? argv[1] : "tests/golden");
    for (kv_int8 = 0; kv_int8 < 2; kv_int8++) {
        SmolLimits limits = limits_of(1, 1, "c");
        Bits expected = run(&limits, single, 1);
        CHECK(equal(run(&limits, single, 1), expected), "the same again");
        test_batches(&expected);
        test_machines(&expected);
        test_context(&expected);
        test_rewind(&expected);
        test_kept(&expected);
        test_kept_q8();
    }
    return test_end("test_batch");
}
