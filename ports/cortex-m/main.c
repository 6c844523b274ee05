// main.c: a question about a picture, answered without an operating system. Everything it needs of the engine is in smol.h.
//
// The arena serves twice. First it holds the picture's tiles and an engine that only encodes; then, in the same bytes, the
// prompt and an engine that only decodes. What stays between are the features: the rows that the decoder reads like words.

#include "board.h"
#include "smol.h"

#include <string.h>

enum { N_NEW = 16, BATCH = 16 };

extern const uint8_t model_begin[], model_end[], picture_begin[], picture_end[];  // data.S

__attribute__((section(".arena"))) static _Alignas(64) uint8_t arena[ARENA_BYTES];
static size_t used, most_used;

static SmolModel model;
static SmolErr err;

// ---- memory and messages ----

static _Noreturn void die(const char *text) {
    board_print("smol: ");
    board_print(text);
    board_print("\n");
    board_exit(1);
}

static void *take(size_t bytes) {
    size_t padded = (bytes + 63) & ~(size_t)63;
    if (padded < bytes || padded > sizeof arena - used) die("the arena is too small");
    used += padded;
    if (used > most_used) most_used = used;
    return arena + used - padded;
}

static void report(const char *what, uint64_t number, const char *unit) {
    char digits[24] = {0};
    int at = sizeof digits - 1;
    do digits[--at] = (char)('0' + number % 10);
    while (number /= 10);
    board_print(what);
    board_print(digits + at);
    board_print(unit);
}

// With qemu's -icount shift=0 an instruction takes a nanosecond.
static void report_stage(const char *what, uint64_t since) {
    report(what, (board_ticks() - since) * 1000 / CLOCK_MHZ, " instructions\n");
}

static SmolEngine *start(const SmolLimits *limits) {
    SmolEngine *e;
    size_t bytes;
    if (smol_plan(&model, limits, NULL, NULL, &bytes, &err)) die(err.text);
    if (smol_start(&e, &model, limits, take(bytes), bytes, &err)) die(err.text);
    return e;
}

// ---- the picture: to features (n_tokens, dim) ----

static void encode(const SmolPicture *picture, const SmolTiling *tiling, float *features) {
    const SmolConfig *c = &model.config;
    size_t kept = used, n_pixels = (size_t)3 * (size_t)c->tile_size * (size_t)c->tile_size;
    uint64_t begin = board_ticks();

    size_t room = smol_picture_bytes(c, picture, tiling);
    if (room > sizeof arena - used) die("the picture does not fit the arena");
    SmolArena a = {.base = arena + used, .size = room};
    SmolTiles tiles;
    if (smol_picture_load(c, picture, tiling, &a, &tiles, &err)) die(err.text);
    take(room);
    used = kept + a.used;  // the tiles stay, what the decoding needed goes
    float *pixels = take(n_pixels * sizeof *pixels);
    report_stage("picture: ", begin);

    begin = board_ticks();
    const SmolLimits limits = {.context = 1, .batch = BATCH, .n_threads = 1, .vision = 1};
    SmolEngine *e = start(&limits);
    for (int i = 0; i < tiling->n_tiles; i++) {
        smol_tile_pixels(c, &tiles, i, pixels);
        if (smol_encode_tile(e, pixels, features + (size_t)(i * c->image_seq_len) * (size_t)c->dim, &err)) die(err.text);
    }
    report_stage("encoder: ", begin);
    used = kept;
}

// ---- the question: to token ids ----

static int32_t *tokenize(const char *question, const SmolTiling *tiling, long *n_ids) {
    const SmolMessage message = {"user", question, strlen(question), tiling, 1, NULL};
    SmolPrompt prompt = {0};
    if (smol_prompt_chat(&model, &message, 1, &prompt, &err)) die(err.text);
    prompt.text_cap = prompt.n_text;
    prompt.user_cap = prompt.n_user;
    int32_t *ids = take(prompt.n_text * sizeof *ids);
    size_t kept = used;
    prompt.text = take(prompt.text_cap);
    prompt.user = take(prompt.user_cap * sizeof *prompt.user);
    if (smol_prompt_chat(&model, &message, 1, &prompt, &err)) die(err.text);
    SmolArena scratch = {.size = smol_tokenize_bytes(&model, prompt.n_text)};
    scratch.base = take(scratch.size);
    *n_ids = smol_tokenize(&model, &prompt, ids, &scratch, &err);
    if (*n_ids < 0) die(err.text);
    used = kept;
    return ids;
}

// ---- the answer ----

static int is_end(int32_t id) {
    for (int i = 0; i < model.config.n_eos; i++) {
        if (model.config.eos_id[i] == id) return 1;
    }
    return 0;
}

// Prints a token; the answer's first space belongs to the chat template.
static void say(int32_t id, int is_first) {
    size_t n;
    const char *text = smol_token_text(&model, id, &n);
    for (size_t i = is_first && n && *text == ' '; i < n; i++) board_print((const char[2]){text[i], 0});
}

static void report_digest(SmolSha256 *digest) {
    uint8_t bytes[32];
    char hex[65] = {0};
    smol_sha256_end(digest, bytes);
    for (int i = 0; i < 64; i++) hex[i] = "0123456789abcdef"[bytes[i / 2] >> (i % 2 ? 0 : 4) & 15];
    board_print("\nlogits_sha256: ");
    board_print(hex);
    board_print("\n");
}

static void answer(const int32_t *ids, long n_ids, const float *features, int n_features) {
    const SmolLimits limits = {.context = (int)n_ids + N_NEW, .batch = BATCH, .n_threads = 1};
    SmolEngine *e = start(&limits);
    SmolSampling greedy = {.temperature = 0};
    SmolSha256 digest;
    const float *logits;
    smol_sha256_init(&digest);

    uint64_t begin = board_ticks();
    if (smol_forward(e, ids, (int)n_ids, features, n_features, &logits, &err)) die(err.text);
    report_stage("prompt: ", begin);

    begin = board_ticks();
    board_print("answer: ");
    for (int n = 0;; n++) {
        smol_sha256_add(&digest, logits, (size_t)model.config.vocab_size * sizeof *logits);
        int32_t id = smol_sample(e, logits, &greedy);
        if (is_end(id)) break;
        say(id, n == 0);
        if (n + 1 == N_NEW) break;
        if (smol_forward(e, &id, 1, NULL, 0, &logits, &err)) die(err.text);
    }
    report_digest(&digest);
    report_stage("answering: ", begin);
}

int main(void) {
    SmolPicture picture;
    SmolTiling tiling;
    uint64_t begin = board_ticks();
    if (smol_open(&model, model_begin, (size_t)(model_end - model_begin), &err)) die(err.text);
    report_stage("open: ", begin);
    const SmolConfig *c = &model.config;
    if (smol_picture_probe(&picture, picture_begin, (size_t)(picture_end - picture_begin), &err)) die(err.text);
    if (smol_picture_tiling(c, picture.width, picture.height, TILED && c->do_image_splitting, &tiling, &err)) die(err.text);

    float *features = take((size_t)tiling.n_tokens * (size_t)c->dim * sizeof *features);
    encode(&picture, &tiling, features);
    long n_ids;
    const int32_t *ids = tokenize(QUESTION, &tiling, &n_ids);
    answer(ids, n_ids, features, tiling.n_tokens);
    report("prompt of ", (uint64_t)n_ids, " tokens, ");
    report("", (uint64_t)tiling.n_tiles, " tiles\n");
    report("arena used: ", most_used, " bytes\n");
    report("stack used: ", board_stack_used(), " bytes\n");
    return 0;
}
