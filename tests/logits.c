// logits.c: the SHA-256 of all logits, of every position of a prompt and of an answer, as a variant of the engine computes them.
//
//     logits                                                  names the kernels that this machine can run
//     logits MODEL PICTURE|- SPLIT KV_INT8 N_NEW VARIANT...   ids of the prompt from standard input
//
// A variant is KERNEL/THREADS/PIECES: the prompt goes in by calls of so many tokens, by turns; 0: all that is left. After the
// prompt N_NEW tokens follow, each the most probable one. Prints a line for each variant: its name and the digest.

#include "smol.h"
#include "tiny.h"

static Tiny t;

static void load_picture(const char *path, int split) {
    SmolErr err;
    size_t n;
    const SmolConfig *c = &t.model.config;
    unsigned char *bytes = read_file(path, &n);
    if (!bytes) exit(2);
    if (smol_picture_probe(&t.picture, bytes, n, &err) ||
        smol_picture_tiling(c, t.picture.width, t.picture.height, split, &t.tiling, &err)) {
        tiny_fail(&err);
    }
    SmolArena arena = {.size = smol_picture_bytes(c, &t.picture, &t.tiling)};
    arena.base = aligned_memory(arena.size);
    if (smol_picture_load(c, &t.picture, &t.tiling, &arena, &t.tiles, &err)) tiny_fail(&err);
}

static void add_logits(void *digest, const char *name, const float *x, int n_rows, int n_cols, int ld) {
    if (strcmp(name, "logits") != 0) return;
    for (int i = 0; i < n_rows; i++) smol_sha256_add(digest, x + (size_t)i * (size_t)ld, (size_t)n_cols * sizeof *x);
}

// n tokens, with the feature rows that belong to them; *row counts those.
static const float *forward(SmolEngine *e, const int32_t *ids, int n, int *row) {
    SmolErr err;
    const float *logits;
    int n_image = 0;
    for (int i = 0; i < n; i++) n_image += ids[i] == t.model.config.image_token_id;
    const float *features = n_image ? smol_features(e) + (size_t)*row * (size_t)t.model.config.dim : NULL;
    if (smol_forward(e, ids, n, features, n_image, &logits, &err)) tiny_fail(&err);
    *row += n_image;
    return logits;
}

// pieces: numbers with commas between them.
static void run(const char *kernel, int n_threads, const char *pieces, int kv_int8, int n_new, unsigned char digest[32]) {
    void *arena;
    SmolSha256 sha;
    SmolLimits limits = {.context = t.n_ids + n_new, .batch = *pieces == '0' ? t.n_ids : 32, .n_image_tokens = t.tiling.n_tokens,
                         .n_threads = n_threads, .vision = t.tiling.n_tiles > 0, .all_logits = 1,
                         .kv_int8 = kv_int8, .kernel = kernel};
    SmolEngine *e = tiny_start(&t, &limits, &arena);
    smol_sha256_init(&sha);
    if (t.tiling.n_tiles) tiny_encode(&t, e, NULL);
    smol_listen(e, NULL, add_logits, &sha);
    const float *logits = NULL;
    const char *piece = pieces;
    for (int from = 0, row = 0; from < t.n_ids; piece = strchr(piece, ',') ? strchr(piece, ',') + 1 : pieces) {
        int n = atoi(piece);
        if (n == 0 || n > t.n_ids - from) n = t.n_ids - from;
        logits = forward(e, t.ids + from, n, &row);
        from += n;
    }
    for (int i = 0; i < n_new; i++) {
        SmolErr err;
        SmolSampling greedy = {0};
        int32_t id = smol_sample(e, logits, &greedy);
        if (smol_forward(e, &id, 1, NULL, 0, &logits, &err)) tiny_fail(&err);
    }
    smol_sha256_end(&sha, digest);
    free(arena);
}

int main(int argc, char **argv) {
    SmolErr err;
    size_t n;
    for (int i = 0; argc == 1 && smol_kernel(i); i++) puts(smol_kernel(i));
    if (argc < 7) return argc != 1;
    unsigned char *bytes = read_file(argv[1], &n);
    if (!bytes) return fprintf(stderr, "%s cannot be read\n", argv[1]), 2;
    if (smol_open(&t.model, memcpy(aligned_memory(n), bytes, n), n, &err)) tiny_fail(&err);
    if (strcmp(argv[2], "-") != 0) load_picture(argv[2], atoi(argv[3]));
    while (t.n_ids < TINY_IDS && scanf("%d", &t.ids[t.n_ids]) == 1) t.n_ids++;
    for (int i = 6; i < argc; i++) {
        char kernel[32], text[65], *slash = strchr(argv[i], '/'), *second = slash ? strchr(slash + 1, '/') : NULL;
        unsigned char digest[32];
        if (!second || slash - argv[i] >= (int)sizeof kernel) return 2;
        memset(kernel, 0, sizeof kernel);
        memcpy(kernel, argv[i], (size_t)(slash - argv[i]));
        run(kernel, atoi(slash + 1), second + 1, atoi(argv[4]), atoi(argv[5]), digest);
        hex(text, digest);
        printf("%s %s\n", argv[i], text);
        fflush(stdout);
    }
    return 0;
}
