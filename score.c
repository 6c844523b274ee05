// score.c: how well a model predicts a text. The text is cut into windows of equal length, nothing is carried from one to the
// next, and in each window every token but the first is predicted from those before it. What is left at the end is dropped.
//
//     nll(t) = log(sum of exp(logits)) - logits[id(t + 1)]    mean_nll = mean of all predictions    perplexity = exp(mean_nll)

#define _DEFAULT_SOURCE

#include "cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOW = 512, BATCH = 128 };

typedef struct {
    const SmolModel *model;
    const Options *opt;
    SmolEngine *engine;
    SmolLimits limits;
    int32_t *ids;
    long n_ids;
    const int32_t *next;  // the window's tokens that the coming rows of logits predict
    int n_next;
    double sum;           // of the window's predictions so far
} Score;

// The text as it is, with no template and nothing that it could say to control the model.
static void tokenize(Score *s, const char *text, size_t n) {
    const SmolMessage message = {.role = "user", .text = text, .n_text = n};
    SmolPrompt p = {0};
    SmolErr err;
    if (smol_prompt_raw(s->model, &message, 0, &p, &err)) die(s->opt->score, err.text);
    p.text_cap = p.n_text;
    p.user_cap = p.n_user;
    p.text = need(NULL, p.text_cap, "text");
    p.user = need(NULL, p.user_cap * sizeof *p.user, "text");
    if (smol_prompt_raw(s->model, &message, 0, &p, &err)) die(s->opt->score, err.text);
    SmolArena scratch = {.size = smol_tokenize_bytes(s->model, p.n_text)};
    scratch.base = need(NULL, scratch.size, "tokenizer");
    s->ids = need(NULL, (p.n_text + 1) * sizeof *s->ids, "text");
    s->n_ids = smol_tokenize(s->model, &p, s->ids, &scratch, &err);
    if (s->n_ids < 0) die(s->opt->score, err.text);
    free(scratch.base);
    free(p.user);
    free(p.text);
}

// Hears of every stage; the logits come a batch of positions at a time.
static void hear(void *user, const char *name, const float *x, int n_rows, int n_cols, int ld) {
    Score *s = user;
    if (strcmp(name, "logits") != 0) return;
    for (int i = 0; i < n_rows && s->n_next > 0; i++, s->n_next--) {
        const float *logits = x + (size_t)i * (size_t)ld;
        s->sum += log_sum_exp(logits, n_cols) - (double)logits[*s->next++];
    }
}

static void start(Score *s, int window) {
    SmolErr err;
    size_t bytes;
    s->limits = (SmolLimits){.context = window, .batch = window < BATCH ? window : BATCH, .n_threads = s->opt->threads,
                             .all_logits = 1, .kv_int8 = s->opt->kv_int8, .kernel = s->opt->kernel};
    if (smol_plan(s->model, &s->limits, NULL, NULL, &bytes, &err)) die(NULL, err.text);
    void *arena = aligned_64(need(NULL, bytes + 63, "engine"));
    if (smol_start(&s->engine, s->model, &s->limits, arena, bytes, &err)) die(NULL, err.text);
    smol_listen(s->engine, NULL, hear, s);
}

static double score_window(Score *s, const int32_t *ids, int window) {
    SmolErr err;
    const float *logits;
    smol_rewind(s->engine, 0);
    s->next = ids + 1;
    s->n_next = window - 1;
    s->sum = 0;
    if (smol_forward(s->engine, ids, window, NULL, 0, &logits, &err)) die(s->opt->score, err.text);
    return s->sum / (window - 1);
}

int score(const SmolModel *m, const Options *o) {
    Score s = {.model = m, .opt = o};
    SmolErr err;
    size_t n;
    char line[96];
    const uint8_t *text = load_file(o->score, &n, &err);
    if (!text) die(o->score, err.text);
    tokenize(&s, (const char *)text, n);
    int window = o->context ? o->context : m->config.max_positions < WINDOW ? m->config.max_positions : WINDOW;
    long n_windows = window > 1 ? s.n_ids / window : 0;
    if (n_windows < 1) {
        snprintf(line, sizeof line, "%ld tokens do not fill a window of %d (-c sets its length, at least 2)", s.n_ids, window);
        die(o->score, line);
    }
    start(&s, window);
    double sum = 0;
    printf("{\"window_nll\":[");
    for (long i = 0; i < n_windows; i++) {
        snprintf(line, sizeof line, "window %ld/%ld", i + 1, n_windows);
        progress(line);
        double mean = score_window(&s, s.ids + i * window, window);
        printf("%s%.9f", i ? "," : "", mean);
        sum += mean;
    }
    progress(NULL);
    double mean_nll = sum / (double)n_windows;
    printf("],\"mean_nll\":%.9f,\"perplexity\":%.6f,\"tokens\":%ld,\"window\":%d,\"windows\":%ld,\"predictions\":%ld,"
           "\"kernel\":\"%s\",\"model_sha256\":\"", mean_nll, exp(mean_nll), s.n_ids, window, n_windows,
           n_windows * (window - 1), smol_kernel_name(s.engine));
    print_hex(stdout, m->sha256);
    puts("\"}");
    return 0;
}
