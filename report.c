// report.c: what the program says about a model, a plan and an answer, for people and as JSON.

#include "cli.h"

#include <stdlib.h>
#include <string.h>

void print_hex(FILE *f, const uint8_t digest[32]) {
    for (int i = 0; i < 32; i++) fprintf(f, "%02x", digest[i]);
}

// ---- --info ----

static void print_vision(const SmolConfig *c) {
    printf("encoder   image_size %d, patch_size %d, dim %d, hidden_dim %d, layers %d, heads %d, eps %g\n"
           "connector scale_factor %d: %d tokens a tile\n",
           c->image_size, c->patch_size, c->v_dim, c->v_hidden_dim, c->v_layers, c->v_heads, (double)c->v_eps,
           c->scale_factor, c->image_seq_len);
    printf("pictures  longest_edge %d, tiles of %d, splitting %s, mean %g %g %g, std %g %g %g\n", c->longest_edge, c->tile_size,
           c->do_image_splitting ? "on" : "off", (double)c->image_mean[0], (double)c->image_mean[1], (double)c->image_mean[2],
           (double)c->image_std[0], (double)c->image_std[1], (double)c->image_std[2]);
}

void report_info(const SmolModel *m, const char *name) {
    static const char *const types[] = {"F32", "F32x16", "Q8", "Q4"}, *const weights[] = {"f32", "q8", "q4"};
    const SmolConfig *c = &m->config;
    printf("%s: %zu bytes, %d tensors, weights %s, model sha256 ", name, m->n_bytes, m->n_tensors, weights[c->weight_type]);
    print_hex(stdout, m->sha256);
    printf("\n\ndecoder   dim %d, hidden_dim %d, n_layers %d, n_heads %d, n_kv_heads %d, head_dim %d\n"
           "          vocab_size %d%s, max_positions %d, rope_theta %g, rms_norm_eps %g\n",
           c->dim, c->hidden_dim, c->n_layers, c->n_heads, c->n_kv_heads, c->head_dim, c->vocab_size,
           c->tied ? " (tied head)" : "", c->max_positions, (double)c->rope_theta, (double)c->rms_norm_eps);
    if (c->family == SMOL_SMOLVLM) print_vision(c);
    printf("tokens    bos %d, pad %d, image %d, eos", c->bos_id, c->pad_id, c->image_token_id);
    for (int i = 0; i < c->n_eos; i++) printf(" %d", c->eos_id[i]);
    printf(", chat template %s\n\n%.*s\n\n", smol_template_name(m), (int)m->provenance_bytes, m->provenance);
    for (int i = 0; i < m->n_tensors; i++) {
        SmolTensor t;
        smol_tensor(m, i, &t);
        printf("%-70s %-6s %6d x %-6d ", t.name, types[t.type], t.n_rows, t.n_cols);
        print_hex(stdout, t.sha256);
        putchar('\n');
    }
}

// ---- --plan ----

typedef struct {
    const char *name;  // of the buffers added up so far
    size_t bytes, total;
} PlanRows;

static void print_row(const char *name, size_t bytes) { printf("%14zu  %s\n", bytes, name); }

// Adds up neighbours of the same name.
static void plan_note(void *user, const char *name, size_t bytes) {
    PlanRows *p = user;
    if (p->name && strcmp(p->name, name) != 0) {
        print_row(p->name, p->bytes);
        p->bytes = 0;
    }
    p->name = name;
    p->bytes += bytes;
}

// Of an embedding table that is not the output head, too, only the rows of the tokens at hand are ever read.
static size_t bytes_by_rows(const SmolModel *m) {
    size_t bytes = 0;
    for (int i = 0; i < m->n_tensors && !m->config.tied; i++) {
        SmolTensor t;
        smol_tensor(m, i, &t);
        if (strstr(t.name, "embed_tokens.weight")) bytes = t.bytes;
    }
    return bytes;
}

void report_plan(const SmolModel *m, const SmolLimits *limits, size_t picture_bytes) {
    PlanRows rows = {0};
    size_t total;
    SmolErr err;
    if (smol_plan(m, limits, plan_note, &rows, &total, &err)) die(NULL, err.text);
    print_row(rows.name, rows.bytes);
    print_row("engine (encoder and decoder share their activations)", total);
    print_row("pictures, one at a time", picture_bytes);
    size_t by_rows = bytes_by_rows(m);
    print_row("model file, mapped and not copied", m->n_bytes - by_rows);
    if (by_rows) print_row("the rest of it: the embedding table, of which only the tokens' rows are read", by_rows);
    print_row("total", total + picture_bytes + m->n_bytes);
}

// ---- after an answer ----

static double per_second(int n, double ms) { return ms > 0 ? n * 1000 / ms : 0; }

void report_timings(const Answer *a, const char *kernel, int n_threads) {
    int n_new = a->n_prompt - a->n_reused;
    fprintf(stderr, "load %.1f ms | pictures %d tiles %.0f ms | prompt %d tokens %.0f ms, %.1f/s | answer %d tokens %.0f ms, %.1f/s\n",
            a->load_ms, a->n_tiles, a->encode_ms, n_new, a->prompt_ms, per_second(n_new, a->prompt_ms), a->n_ids, a->decode_ms,
            per_second(a->n_ids, a->decode_ms));
    fprintf(stderr, "kernel %s, %d thread%s, peak memory %.1f MB, finish: %s\n", kernel, n_threads, n_threads == 1 ? "" : "s",
            (double)peak_memory() / 1e6, a->finish);
}

void report_ids(const int32_t *ids, long n, int json) {
    if (json) putchar('[');
    for (long i = 0; i < n; i++) printf("%s%d", i == 0 ? "" : json ? "," : " ", ids[i]);
    if (json) putchar(']');
}

// The answer's text is valid UTF-8 by construction (host.c).
static void print_string(FILE *f, const char *s, size_t n) {
    putc('"', f);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '"' || c == '\\') fprintf(f, "\\%c", c);
        else if (c == '\n') fputs("\\n", f);
        else if (c < 0x20 || c == 0x7f) fprintf(f, "\\u%04x", c);
        else putc(c, f);
    }
    putc('"', f);
}

// ---- --choices ----

void report_choices(const Answer *a) {
    for (int i = 0; i < a->n_choices; i++) {
        printf("%.6f  %.*s\n", a->choices[i].probability, (int)a->choices[i].text.n, a->choices[i].text.text);
    }
}

static void print_choices(const Answer *a) {
    fputs(",\"choices\":[", stdout);
    for (int i = 0; i < a->n_choices; i++) {
        const Choice *c = &a->choices[i];
        fputs(i ? ",{\"text\":" : "{\"text\":", stdout);
        print_string(stdout, c->text.text, c->text.n);
        printf(",\"probability\":%.9g,\"logprob\":%.9f,\"tokens\":", c->probability, c->logprob);
        report_ids(c->ids, c->n_ids, 1);
        putchar('}');
    }
    putchar(']');
}

// ---- --logprobs ----

// A token's text may be a part of a character, which becomes U+FFFD.
static void print_token(FILE *f, const SmolModel *m, int32_t id) {
    Buffer text = {0};
    Utf8 utf8 = {0};
    size_t n;
    const char *bytes = smol_token_name(m, id, &n);
    for (size_t i = 0; i < n; i++) utf8_add(&utf8, &text, bytes[i]);
    utf8_end(&utf8, &text);
    print_string(f, text.bytes, text.n);
    free(text.bytes);
}

static void print_likely(const SmolModel *m, const Likely *t) {
    printf("{\"id\":%d,\"text\":", t->id);
    print_token(stdout, m, t->id);
    printf(",\"logprob\":%.9f", t->logprob);
}

static void print_logprobs(const SmolModel *m, const Answer *a, int k) {
    fputs(",\"logprobs\":[", stdout);
    for (int i = 0; i < a->n_ids; i++) {
        const Likely *row = a->likely + (size_t)i * ((size_t)k + 1);
        if (i) putchar(',');
        print_likely(m, row);
        fputs(",\"top\":[", stdout);
        for (int j = 1; j <= k; j++) {
            if (j > 1) putchar(',');
            print_likely(m, &row[j]);
            putchar('}');
        }
        fputs("]}", stdout);
    }
    putchar(']');
}

void report_logprobs(const SmolModel *m, const Answer *a, int k) {
    for (int i = 0; i < a->n_ids; i++) {
        const Likely *row = a->likely + (size_t)i * ((size_t)k + 1);
        for (int j = 0; j <= k; j++) {
            fprintf(stderr, j == 0 ? "%9.4f  " : j == 1 ? "   of: %.4f " : ", %.4f ", row[j].logprob);
            print_token(stderr, m, row[j].id);
        }
        putc('\n', stderr);
    }
}

// ---- --json ----

static void print_boxes(const SmolPicture *p, const SmolTiling *t) {
    fputs(",\"boxes\":[", stdout);
    for (int i = 0; i < t->n_tiles; i++) {
        TileBox b = tile_box(p, t, i);
        printf("%s{\"row\":%d,\"col\":%d,\"x\":%.15g,\"y\":%.15g,\"width\":%.15g,\"height\":%.15g}", i ? "," : "", b.row, b.col,
               b.x, b.y, b.width, b.height);
    }
    putchar(']');
}

static void print_tiles(const SmolPicture *pictures, const SmolTiling *tilings, int n_pictures) {
    fputs(",\"tiles\":[", stdout);
    for (int i = 0; i < n_pictures; i++) {
        const SmolTiling *t = &tilings[i];
        printf("%s{\"width\":%d,\"height\":%d,\"resized\":[%d,%d],\"cut\":[%d,%d],\"rows\":%d,\"cols\":%d,\"tiles\":%d,\"tokens\":%d",
               i ? "," : "", pictures[i].width, pictures[i].height, t->resized_w, t->resized_h, t->cut_w, t->cut_h, t->rows,
               t->cols, t->n_tiles, t->n_tokens);
        print_boxes(&pictures[i], t);
        putchar('}');
    }
    putchar(']');
}

static void print_video(const SmolConfig *c, const SmolVideo *v) {
    if (!v) {
        fputs(",\"video\":null", stdout);
        return;
    }
    printf(",\"video\":{\"frames\":%d,\"seconds\":[", v->n_frames);
    for (int i = 0; i < v->n_frames; i++) printf("%s%.3f", i ? "," : "", v->seconds[i]);
    printf("],\"duration\":%.3f,\"tokens\":%d}", v->duration, v->n_frames * c->image_seq_len);
}

void report_json(const Options *o, const SmolModel *m, const Answer *a, const int32_t *prompt, const SmolPicture *pictures,
                 const SmolTiling *tilings, int n_pictures, const SmolVideo *video, size_t memory, const char *kernel) {
    fputs("{\"text\":", stdout);
    print_string(stdout, a->text.bytes, a->text.n);
    fputs(",\"tokens\":", stdout);
    report_ids(a->ids, a->n_ids, 1);
    fputs(",\"prompt_tokens\":", stdout);
    report_ids(prompt, a->n_prompt, 1);
    printf(",\"finish\":\"%s\"", a->finish);
    if (o->n_choices) print_choices(a);
    if (o->logprobs) print_logprobs(m, a, o->logprobs);
    print_tiles(pictures, tilings, n_pictures);
    print_video(&m->config, video);
    printf(",\"timings\":{\"load_ms\":%.3f,\"encode_ms\":%.3f,\"prompt_ms\":%.3f,\"decode_ms\":%.3f,\"reused_tokens\":%d}",
           a->load_ms, a->encode_ms, a->prompt_ms, a->decode_ms, a->n_reused);
    printf(",\"memory\":{\"planned_bytes\":%zu,\"model_bytes\":%zu,\"peak_bytes\":%zu}", memory, m->n_bytes, peak_memory());
    fputs(",\"logits_sha256\":\"", stdout);
    print_hex(stdout, a->logits_sha256);
    fputs("\",\"model_sha256\":\"", stdout);
    print_hex(stdout, m->sha256);
    printf("\",\"kernel\":\"%s\",\"threads\":%d,\"seed\":%llu,\"version\":\"" SMOL_VERSION "\"}\n", kernel, o->threads,
           (unsigned long long)o->seed);
}
