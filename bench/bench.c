// bench.c: how fast the engine is on this machine, and how near it comes to what the machine can do. Drives it through smol.h
// alone, as a firmware would; only products.c looks inside.
//
// The question comes first, because it tells the peak memory of the process, which later figures would raise.

#define _DEFAULT_SOURCE

#include "../cli.h"
#include "limits.h"
#include "products.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAX_RUNS = 100, BATCH = 128, WIDTH = 1024, HEIGHT = 768, N_ANSWER = 32, N_DECODE = 32, N_SHORT = 16 };

static const char question[] = "What is in this picture?";
static const char usage[] =
    "usage: bench [-t THREADS] [-r RUNS] [-s SECONDS] [-k KERNEL] [-m] [-o FIGURE] MODEL\n"
    "  -t  threads (2)          -r  runs of each figure, of which the median counts (5)\n"
    "  -s  no further run of a figure that took so long already (60)\n"
    "  -m  with a copy of the model in memory, not mapped, as --in-memory does it\n"
    "  -o  only the figures whose names begin so, one line each: name, median, unit\n";

typedef struct {
    const char *name, *kernel, *only;
    int n_threads, n_runs, has_vision, in_memory;
    double seconds;
    SmolModel model;
    SmolEngine *engine;
    void *memory;  // of the engine
    Limits all, one;  // the machine's: all threads, and one
    double tile_macs;  // multiplications and additions
} Bench;

// ---- figures ----

typedef struct {
    double value[MAX_RUNS];
    int n;
    double ms;  // all runs together
} Runs;

static int more(const Bench *b, const Runs *r) { return r->n < b->n_runs && (r->n == 0 || r->ms < b->seconds * 1e3); }

static void add_run(Runs *r, double ms) {
    r->value[r->n++] = ms;
    r->ms += ms;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(Runs *r) {
    qsort(r->value, (size_t)r->n, sizeof *r->value, by_value);
    return r->n % 2 ? r->value[r->n / 2] : (r->value[r->n / 2 - 1] + r->value[r->n / 2]) / 2;
}

// work > 0: so many units are done in a run, and their rate is told instead of the time. Returns the median.
static double report(const Bench *b, const char *name, Runs *r, double work, const char *unit) {
    double middle = median(r), low = r->value[0], high = r->value[r->n - 1];
    if (work > 0) middle = work / middle * 1e3, low = work / high * 1e3, high = work / r->value[0] * 1e3;
    if (b->only) printf("%s\t%.6g\t%s\n", name, middle, unit);
    else printf("  %-22s %9.4g %-9s %.4g .. %.4g in %d run%s", name, middle, unit, low, high, r->n, r->n == 1 ? "" : "s");
    return middle;
}

static void end_line(const Bench *b) {
    if (!b->only) putchar('\n');
}

// Ends the line of a figure with what it is of a limit.
static void report_share(const Bench *b, double rate, const char *unit, const Limit *limit) {
    double share = 100 * rate / limit->rate;
    if (limit->how && b->only) printf("of %s\t%.3g\t%%\n", limit->how, share);
    else if (limit->how) printf("; %.3g %s, %.0f %% of %s", rate, unit, share, limit->how);
    end_line(b);
}

static int wanted(const Bench *b, const char *figure) { return !b->only || !strncmp(figure, b->only, strlen(b->only)); }

// ---- the engine ----

static SmolErr err;  // the last one

static void check(const Bench *b, int code) {
    if (code < 0) die(b->name, err.text);
}

static void map_model(Bench *b) {
    size_t n;
    const uint8_t *bytes = (b->in_memory ? load_copy : load_file)(b->name, &n, &err);
    if (!bytes) die(b->name, err.text);
    check(b, smol_open(&b->model, bytes, n, &err));
}

static void unmap_model(Bench *b) { munmap((void *)(uintptr_t)b->model.bytes, b->model.n_bytes); }

static SmolLimits limits_of(const Bench *b, int context, int n_image_tokens, int vision) {
    if (context > b->model.config.max_positions) context = b->model.config.max_positions;
    return (SmolLimits){.context = context, .batch = context < BATCH ? context : BATCH, .n_image_tokens = n_image_tokens,
                        .n_threads = b->n_threads, .vision = vision, .kernel = b->kernel};
}

// Returns the bytes that the engine takes.
static size_t start(Bench *b, const SmolLimits *limits) {
    size_t n;
    check(b, smol_plan(&b->model, limits, NULL, NULL, &n, &err));
    b->memory = aligned_alloc(64, (n + 63) / 64 * 64);
    if (!b->memory) die(b->name, "not enough memory");
    check(b, smol_start(&b->engine, &b->model, limits, b->memory, n, &err));
    return n;
}

static void stop(Bench *b) { free(b->memory); }

// A prompt of n tokens that are not the same.
static int32_t *some_ids(const Bench *b, int n) {
    int32_t *ids = need(NULL, (size_t)n * sizeof *ids, "prompt");
    for (int i = 0; i < n; i++) ids[i] = (int32_t)((i * 7919LL + 17) % b->model.config.vocab_size);
    return ids;
}

// ---- start: until the engine could be asked ----

static void bench_start(Bench *b) {
    Runs r = {0};
    while (more(b, &r)) {
        double begin = now_ms();
        map_model(b);
        SmolLimits limits = limits_of(b, 2048, b->has_vision ? b->model.config.image_seq_len : 0, b->has_vision);
        start(b, &limits);
        add_run(&r, now_ms() - begin);
        stop(b);
        unmap_model(b);
    }
    report(b, "start", &r, 0, "ms");
    end_line(b);
}

// ---- a question about a picture, from the file to the first word ----

static Buffer make_picture(void) {
    Buffer picture = {0};
    char head[32];
    buffer_add(&picture, head, (size_t)snprintf(head, sizeof head, "P6 %d %d 255\n", WIDTH, HEIGHT));
    for (int i = 0; i < WIDTH * HEIGHT; i++) {
        int x = i % WIDTH, y = i / WIDTH;
        char rgb[3] = {(char)(x / 4), (char)(y / 3), (char)((x ^ y) & 255)};
        buffer_add(&picture, rgb, sizeof rgb);
    }
    return picture;
}

static int32_t *prompt_ids(const Bench *b, const SmolTiling *tiling, long *n) {
    SmolMessage message = {.role = "user", .text = question, .n_text = strlen(question), .pictures = tiling, .n_pictures = 1};
    SmolPrompt p = {0};
    check(b, smol_prompt_chat(&b->model, &message, 1, &p, &err));
    p.text_cap = p.n_text, p.user_cap = p.n_user;
    p.text = need(NULL, p.n_text, "prompt");
    p.user = need(NULL, p.n_user * sizeof *p.user, "prompt");
    check(b, smol_prompt_chat(&b->model, &message, 1, &p, &err));
    SmolArena scratch = {.size = smol_tokenize_bytes(&b->model, p.n_text)};
    scratch.base = aligned_alloc(64, (scratch.size + 63) / 64 * 64);
    int32_t *ids = need(NULL, (p.n_text + 1) * sizeof *ids, "prompt");
    *n = scratch.base ? smol_tokenize(&b->model, &p, ids, &scratch, &err) : SMOL_E_MEMORY;
    check(b, (int)*n);
    free(scratch.base);
    free(p.user);
    free(p.text);
    return ids;
}

// Encodes all tiles into the engine's features. Returns the bytes that it took.
static size_t encode_picture(const Bench *b, const SmolPicture *picture, const SmolTiling *tiling) {
    const SmolConfig *c = &b->model.config;
    size_t n = (smol_picture_bytes(c, picture, tiling) + 63) / 64 * 64;
    size_t pixels_bytes = 3 * sizeof(float) * (size_t)c->tile_size * (size_t)c->tile_size;
    SmolArena arena = {.base = aligned_alloc(64, (n + pixels_bytes + 63) / 64 * 64), .size = n};
    if (!arena.base) die(b->name, "not enough memory");
    float *pixels = (float *)(arena.base + n);
    SmolTiles tiles;
    check(b, smol_picture_load(c, picture, tiling, &arena, &tiles, &err));
    for (int i = 0; i < tiling->n_tiles; i++) {
        smol_tile_pixels(c, &tiles, i, pixels);
        float *features = smol_features(b->engine) + (size_t)i * (size_t)c->image_seq_len * (size_t)c->dim;
        check(b, smol_encode_tile(b->engine, pixels, features, &err));
    }
    free(arena.base);
    return n + pixels_bytes;
}

// Returns the bytes that the plan foresees, the files of model and picture included.
static size_t ask(Bench *b, const Buffer *file, int *n_tiles, long *n_ids) {
    SmolPicture picture;
    SmolTiling tiling;
    SmolSampling greedy = {0};
    const float *logits;
    map_model(b);
    const SmolConfig *c = &b->model.config;
    check(b, smol_picture_probe(&picture, file->bytes, file->n, &err));
    check(b, smol_picture_tiling(c, picture.width, picture.height, c->do_image_splitting, &tiling, &err));
    int32_t *ids = prompt_ids(b, &tiling, n_ids);
    SmolLimits limits = limits_of(b, (int)*n_ids + N_ANSWER, tiling.n_tokens, 1);
    size_t planned = b->model.n_bytes + file->n + start(b, &limits);
    planned += encode_picture(b, &picture, &tiling);
    check(b, smol_forward(b->engine, ids, (int)*n_ids, smol_features(b->engine), tiling.n_tokens, &logits, &err));
    smol_sample(b->engine, logits, &greedy);
    free(ids);
    *n_tiles = tiling.n_tiles;
    return planned;
}

static void bench_question(Bench *b) {
    if (!b->has_vision) return;
    Buffer file = make_picture();
    Runs r = {0};
    size_t planned = 0, peak = 0;
    int n_tiles = 0;
    long n_ids = 0;
    while (more(b, &r)) {
        double begin = now_ms();
        planned = ask(b, &file, &n_tiles, &n_ids);
        add_run(&r, now_ms() - begin);
        if (!peak) peak = peak_memory();
        stop(b);
        unmap_model(b);
    }
    report(b, "first word", &r, 0, "ms");
    if (b->only) {
        printf("peak memory\t%zu\tbytes\n", peak);
    } else {
        printf("; %dx%d, %d tiles, %ld tokens\n", WIDTH, HEIGHT, n_tiles, n_ids);
        printf("  %-22s %9.4g %-9s %.1f %% of the plan's %zu bytes, files included\n", "peak memory", (double)peak / 1e6, "MB",
               100 * (double)peak / (double)planned, planned);
    }
    free(file.bytes);
}

// ---- the parts ----

// Multiplications and additions of a second are compared with what the weights' type allows.
static const Limit *peak_of(const Bench *b, const Limits *l) { return b->model.config.weight_type ? &l->int8 : &l->f32; }

static void bench_vision(Bench *b) {
    const SmolConfig *c = &b->model.config;
    SmolLimits limits = limits_of(b, N_SHORT, c->image_seq_len, 1);
    size_t n = 3 * (size_t)c->tile_size * (size_t)c->tile_size;
    float *pixels = need(NULL, n * sizeof *pixels, "tile");
    for (size_t i = 0; i < n; i++) pixels[i] = (float)(i * 31 % 255) / 127.5f - 1;
    start(b, &limits);
    Runs r = {0};
    check(b, smol_encode_tile(b->engine, pixels, smol_features(b->engine), &err));  // reads the weights in
    while (more(b, &r)) {
        double begin = now_ms();
        check(b, smol_encode_tile(b->engine, pixels, smol_features(b->engine), &err));
        add_run(&r, now_ms() - begin);
    }
    double ms = report(b, "vision", &r, 0, "ms/tile");
    report_share(b, b->tile_macs / ms * 1e-6, "GMAC/s", peak_of(b, &b->all));
    stop(b);
    free(pixels);
}

static void bench_products(Bench *b) {
    SmolLimits limits = limits_of(b, N_SHORT, b->model.config.image_seq_len, 1);
    limits.n_threads = 1;
    start(b, &limits);
    Runs r = {0};
    double macs = 0;
    while (more(b, &r)) {
        double begin = now_ms();
        macs = products_run(b->engine, &b->tile_macs);
        add_run(&r, now_ms() - begin);
    }
    double rate = report(b, "products, one thread", &r, macs * 1e-9, "GMAC/s");
    report_share(b, rate, "GMAC/s", peak_of(b, &b->one));
    stop(b);
}

static void bench_prefill(Bench *b, int n) {
    char name[32];
    const float *logits;
    snprintf(name, sizeof name, "prefill %d", n);
    if (n > b->model.config.max_positions || !wanted(b, name)) return;
    SmolLimits limits = limits_of(b, n, 0, 0);
    start(b, &limits);
    int32_t *ids = some_ids(b, n);
    Runs r = {0};
    check(b, smol_forward(b->engine, ids, N_SHORT, NULL, 0, &logits, &err));
    while (more(b, &r)) {
        smol_rewind(b->engine, 0);
        double begin = now_ms();
        check(b, smol_forward(b->engine, ids, n, NULL, 0, &logits, &err));
        add_run(&r, now_ms() - begin);
    }
    report(b, name, &r, n, "tokens/s");
    end_line(b);
    stop(b);
    free(ids);
}

// The weights that are read for each token: all of the decoder's but an embedding table that is no output head.
static double bytes_a_token(const Bench *b) {
    double bytes = 0;
    for (int i = 0; i < b->model.n_tensors; i++) {
        SmolTensor t;
        smol_tensor(&b->model, i, &t);
        int decoder = strncmp(t.name, "model.vision_model.", 19) != 0 && strncmp(t.name, "model.connector.", 16) != 0;
        int table = strstr(t.name, "embed_tokens") != NULL && !b->model.config.tied;
        if (decoder && !table) bytes += (double)t.bytes;
    }
    return bytes;
}

static void bench_decode(Bench *b) {
    const float *logits;
    SmolLimits limits = limits_of(b, N_SHORT + N_DECODE, 0, 0);
    start(b, &limits);
    int32_t *ids = some_ids(b, N_SHORT + N_DECODE);
    Runs r = {0}, reading = {0};
    while (more(b, &r)) {
        add_run(&reading, limits_reading(b->n_threads).rate);
        smol_rewind(b->engine, 0);
        check(b, smol_forward(b->engine, ids, N_SHORT, NULL, 0, &logits, &err));
        double begin = now_ms();
        for (int i = 0; i < N_DECODE; i++) check(b, smol_forward(b->engine, ids + N_SHORT + i, 1, NULL, 0, &logits, &err));
        add_run(&r, now_ms() - begin);
    }
    double rate = report(b, "decode", &r, N_DECODE, "tokens/s");
    report_share(b, bytes_a_token(b) * rate * 1e-9, "GB/s", &(Limit){"reading between the runs", median(&reading)});
    stop(b);
    free(ids);
}

// ---- all of it ----

static void report_limits(const char *who, const Limits *l) {
    printf("  %-22s", who);
    if (l->int8.how) printf(" int8 %.4g GMAC/s (%s)", l->int8.rate, l->int8.how);
    else printf(" int8 n/a");
    if (l->f32.how) printf(", f32 %.4g GMAC/s (%s)", l->f32.rate, l->f32.how);
    printf(", reading %.3g GB/s\n", l->read.rate);
}

static void look_at_model(Bench *b) {
    static const char *const types[] = {"f32", "q8", "q4"};
    map_model(b);
    b->has_vision = b->model.config.family == SMOL_SMOLVLM;
    const char *kernel = b->kernel ? b->kernel : smol_kernel(0), *type = types[b->model.config.weight_type];
    if (!b->only) {
        printf("%s: %s, %.4g MB, kernel %s, %d thread%s\n", b->name, type, (double)b->model.n_bytes / 1e6, kernel, b->n_threads,
               b->n_threads == 1 ? "" : "s");
    }
    unmap_model(b);
}

static void bench_parts(Bench *b) {
    map_model(b);
    if (!b->only) {
        b->all = limits_measure(b->n_threads);
        b->one = limits_measure(1);
        report_limits("limits", &b->all);
        report_limits("limits of one thread", &b->one);
    }
    if (wanted(b, "decode")) bench_decode(b);
    bench_prefill(b, 128);
    bench_prefill(b, 512);
    bench_prefill(b, 1024);
    if (b->has_vision && wanted(b, "products")) bench_products(b);
    if (b->has_vision && wanted(b, "vision")) bench_vision(b);
}

int main(int argc, char **argv) {
    Bench b = {.n_threads = 2, .n_runs = 5, .seconds = 60};
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int c; (c = getopt(argc, argv, "t:r:s:k:o:m")) != -1;) {
        if (c == 't') b.n_threads = atoi(optarg);
        else if (c == 'r') b.n_runs = atoi(optarg);
        else if (c == 's') b.seconds = atof(optarg);
        else if (c == 'k') b.kernel = optarg;
        else if (c == 'o') b.only = optarg;
        else if (c == 'm') b.in_memory = 1;
        else return fputs(usage, stderr), 2;
    }
    if (optind != argc - 1 || b.n_runs < 1 || b.n_runs > MAX_RUNS) return fputs(usage, stderr), 2;
    b.name = argv[optind];
    look_at_model(&b);
    if (wanted(&b, "first word")) bench_question(&b);
    if (wanted(&b, "start")) bench_start(&b);
    bench_parts(&b);
    return 0;
}
