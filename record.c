// record.c: --record, an answer and all that it depends on as JSON; --replay, the same once more and compared.
//
// Each number must be equal to the last bit, for the kernel, the threads, the compiler and the machine change none. Only the
// log-probabilities, for which libm's exp and log are good enough, may differ by LOGPROB_ERROR: that the logits behind them are
// equal is what logits_sha256 says. The first lines say what the answer was made by; they are for people and not compared.

#include "session.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char FORMAT[] = "smol.c record 1";
static const char *const NOT_COMPARED[] = {"version", "source_sha256", "kernel", "threads", "file"};
static const double LOGPROB_ERROR = 1e-6;
enum { MAX_BYTES = 1 << 24, MAX_SHOWN = 64 };

struct Record {
    const char *path;
    Json json;
};

// ---- writing ----

static void hex(char out[65], const uint8_t digest[32]) {
    for (int i = 0; i < 32; i++) snprintf(out + 2 * i, 3, "%02x", digest[i]);
}

void picture_digest(const SmolPicture *p, uint8_t sha256[32]) {
    SmolSha256 s;
    smol_sha256_init(&s);
    smol_sha256_add(&s, p->bytes, p->n_bytes);
    smol_sha256_end(&s, sha256);
}

// Text from outside may be no UTF-8. The prompt's template makes the same of it.
static void add_text(Buffer *b, const char *s) {
    Buffer text = {0};
    Utf8 utf8 = {0};
    buffer_add(&text, "", 0);
    for (; *s; s++) utf8_add(&utf8, &text, *s);
    utf8_end(&utf8, &text);
    json_add_string(b, text.bytes, text.n);
    free(text.bytes);
}

static void print_picture(Buffer *b, const char *name, const SmolPicture *p, const SmolTiling *t) {
    char sha256[65];
    uint8_t digest[32];
    picture_digest(p, digest);
    hex(sha256, digest);
    buffer_print(b, "{\"file\": ");
    add_text(b, name);
    buffer_print(b, ", \"sha256\": \"%s\", \"width\": %d, \"height\": %d, \"resized\": [%d, %d], \"cut\": [%d, %d], ",
                 sha256, p->width, p->height, t->resized_w, t->resized_h, t->cut_w, t->cut_h);
    buffer_print(b, "\"rows\": %d, \"cols\": %d, \"tiles\": %d, \"tokens\": %d}", t->rows, t->cols, t->n_tiles, t->n_tokens);
}

static void print_video(Buffer *b, const Video *v) {
    char sha256[65];
    buffer_print(b, " \"video\": {\"file\": ");
    add_text(b, v->name);
    buffer_print(b, ", \"width\": %d, \"height\": %d, \"fps\": %.17g, \"total\": %d, \"frames\": [", v->width, v->height,
                 v->fps, v->n_total);
    for (int i = 0; i < v->video.n_frames; i++) {
        hex(sha256, v->sha256[i]);
        buffer_print(b, "%s\n  {\"index\": %d, \"sha256\": \"%s\"}", i ? "," : "", v->frames[i], sha256);
    }
    buffer_print(b, "\n ]},\n");
}

static void add_option(void *user, const char *name, const char *value, int is_text) {
    Buffer *b = user;
    buffer_print(b, "%s\"%s\": ", b->bytes[b->n - 1] == '{' ? "" : ", ", name);
    if (is_text && value) add_text(b, value);
    else buffer_print(b, "%s", value ? value : "null");
}

static void add_options(Buffer *b, const Options *o) {
    buffer_print(b, "{");
    options_tell(o, add_option, b);
    buffer_print(b, ", \"stop\": [");
    for (int i = 0; i < o->n_stops; i++) {
        if (i) buffer_print(b, ", ");
        add_text(b, o->stops[i]);
    }
    buffer_print(b, "]}");
}

static void add_ids(Buffer *b, const int32_t *ids, int n) {
    buffer_print(b, "[");
    for (int i = 0; i < n; i++) buffer_print(b, "%s%d", i ? ", " : "", ids[i]);
    buffer_print(b, "]");
}

static void add_tokens(Buffer *b, const Answer *a, int n_alternatives) {
    buffer_print(b, " \"answer\": [");
    for (int i = 0; i < a->n_ids; i++) {
        buffer_print(b, "%s\n  {\"token\": %d, \"logprob\": %.9f}", i ? "," : "", a->ids[i],
                     a->likely[i * (1 + n_alternatives)].logprob);
    }
}

static void add_choices(Buffer *b, const Answer *a) {
    buffer_print(b, " \"choices\": [");
    for (int i = 0; i < a->n_choices; i++) {
        buffer_print(b, "%s\n  {\"text\": ", i ? "," : "");
        json_add_string(b, a->choices[i].text.text, a->choices[i].text.n);
        buffer_print(b, ", \"logprob\": %.9f, \"tokens\": ", a->choices[i].logprob);
        add_ids(b, a->choices[i].ids, a->choices[i].n_ids);
        buffer_print(b, "}");
    }
}

static void add_answer(Buffer *b, const Answer *a, int n_alternatives) {
    char sha256[65];
    if (a->n_choices) add_choices(b, a);
    else add_tokens(b, a, n_alternatives);
    hex(sha256, a->logits_sha256);
    buffer_print(b, "\n ],\n \"text\": ");
    json_add_string(b, a->text.bytes, a->text.n);
    buffer_print(b, ",\n \"finish\": \"%s\",\n \"logits_sha256\": \"%s\"\n}\n", a->finish, sha256);
}

static Buffer make_record(const Session *s, const Answer *a) {
    Buffer b = {0};
    char sha256[65];
    hex(sha256, s->model.sha256);
    buffer_print(&b, "{\n \"format\": \"%s\",\n \"version\": \"" SMOL_VERSION "\",\n \"source_sha256\": \"%s\",\n", FORMAT, source_sha256);
    buffer_print(&b, " \"kernel\": \"%s\",\n \"threads\": %d,\n \"model_sha256\": \"%s\",\n \"pictures\": [",
                 smol_kernel_name(s->engine), s->opt.threads, sha256);
    for (int i = 0; i < s->n_pictures; i++) {
        buffer_print(&b, "%s\n  ", i ? "," : "");
        print_picture(&b, s->picture_names[i], &s->pictures[i], &s->tilings[i]);
    }
    buffer_print(&b, "%s],\n", s->n_pictures ? "\n " : "");
    if (s->n_videos) print_video(&b, &s->videos[0]);
    buffer_print(&b, " \"options\": ");
    add_options(&b, &s->opt);
    buffer_print(&b, ",\n \"prompt\": ");
    add_text(&b, s->opt.prompt);
    buffer_print(&b, ",\n \"prompt_tokens\": ");
    add_ids(&b, s->ids, a->n_prompt);
    buffer_print(&b, ",\n");
    add_answer(&b, a, s->opt.logprobs);
    return b;
}

void record_write(const Session *s, const Answer *a) {
    Buffer b = make_record(s, a);
    write_file(s->opt.record, b.bytes, b.n);
    free(b.bytes);
}

// ---- reading ----

static _Noreturn void bad(const Record *r, const char *name, const char *what) {
    char line[200];
    snprintf(line, sizeof line, "is no record: %s%s%s", name, *name ? " " : "", what);
    die(r->path, line);
}

static size_t member(const Record *r, size_t object, const char *name, JsonKind kind) {
    size_t i = json_member(&r->json, object, name);
    if (!i || r->json.values[i].kind != kind) bad(r, name, "is missing or of another kind");
    return i;
}

// At most MAX_SHOWN bytes of a value as it stands in its text, no character cut in two; of a container the number in it.
static void show_value(char out[MAX_SHOWN + 4], const Json *j, size_t i) {
    const JsonValue *v = &j->values[i];
    size_t n = v->n < MAX_SHOWN ? v->n : MAX_SHOWN;
    if (v->kind == JSON_ARRAY) snprintf(out, MAX_SHOWN, "%d of them", v->n_children);
    else if (v->kind == JSON_OBJECT) snprintf(out, MAX_SHOWN, "%d members", v->n_children / 2);
    if (v->kind == JSON_ARRAY || v->kind == JSON_OBJECT) return;
    while (n < v->n && n > 0 && ((unsigned char)j->text[v->begin + n] & 0xc0) == 0x80) n--;
    snprintf(out, MAX_SHOWN + 4, "%.*s%s", (int)n, j->text + v->begin, n < v->n ? "..." : "");
}

// A file's name with a line end or the like would spoil every message about it.
static char *file_name(const Record *r, size_t of) {
    char *name = json_text(&r->json, member(r, of, "file", JSON_STRING));
    for (const char *c = name; *c; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f) bad(r, "file", "has a control character in it");
    }
    return name;
}

// Adds the recorded pictures to the command line, unless it names others to take their place.
static void take_pictures(const Record *r, Options *o) {
    const JsonValue *v = r->json.values;
    size_t pictures = member(r, 0, "pictures", JSON_ARRAY);
    int n = v[pictures].n_children, given = o->n_images;
    char line[120];
    if (n > MAX_IMAGES) bad(r, "pictures", "are too many");
    snprintf(line, sizeof line, "the answer has %d picture%s, and with -i there must be as many or none", n, n == 1 ? "" : "s");
    if (given && given != n) die(r->path, line);
    for (size_t i = pictures + 1; i < v[pictures].end; i = v[i].end) {
        if (!given) o->images[o->n_images++] = file_name(r, i);
        member(r, i, "sha256", JSON_STRING);
    }
}

// The same of the video, if the answer has one.
static void take_video(const Record *r, Options *o) {
    size_t video = json_member(&r->json, 0, "video");
    if (!video && o->video) die(r->path, "the answer has no video, so there is none to give with -v");
    if (video && !o->video) o->video = file_name(r, member(r, 0, "video", JSON_OBJECT));
}

static void take_option(const Record *r, Options *o, size_t name, size_t value) {
    const JsonValue *v = &r->json.values[value];
    char *text = v->kind == JSON_NULL ? NULL : json_text(&r->json, value), *option = json_text(&r->json, name);
    char shown[MAX_SHOWN + 4];
    show_value(shown, &r->json, name);
    if (v->kind == JSON_ARRAY || v->kind == JSON_OBJECT || !options_take(o, option, text, v->kind == JSON_STRING)) {
        bad(r, shown, "is no option, or has a value that it cannot have");
    }
    free(option);
}

static void take_options(const Record *r, Options *o) {
    const JsonValue *v = r->json.values;
    size_t all = member(r, 0, "options", JSON_OBJECT);
    for (size_t i = all + 1; i < v[all].end; i = v[i + 1].end) {
        size_t first = i + 1, end = v[first].end;
        if (v[first].kind != JSON_ARRAY) take_option(r, o, i, first);
        else for (size_t k = first + 1; k < end; k = v[k].end) take_option(r, o, i, k);
    }
}

void record_read(Session *s) {
    Record *r = s->replay = need(NULL, sizeof *r, "record");
    SmolErr err;
    size_t n;
    *r = (Record){.path = s->opt.replay};
    const char *text = (const char *)load_file(r->path, &n, &err);
    if (!text) die(r->path, err.text);
    if (n > MAX_BYTES) bad(r, "", "it is too large");
    JsonValue *values = need(NULL, (n / 2 + JSON_DEPTH) * sizeof *values, "record");
    if (json_read(&r->json, text, n, values, &err)) bad(r, "", err.text);
    const JsonValue *format = &values[member(r, 0, "format", JSON_STRING)];
    int is_known = format->n == strlen(FORMAT) && !memcmp(text + format->begin, FORMAT, format->n);
    if (!is_known) bad(r, "format", "is not a known one");
    take_pictures(r, &s->opt);
    take_video(r, &s->opt);
    take_options(r, &s->opt);
    s->opt.prompt = json_text(&r->json, member(r, 0, "prompt", JSON_STRING));
    const char *fault = s->opt.choice_list ? options_split_choices(&s->opt) : NULL;
    if (fault) bad(r, "", fault);
}

// ---- comparing ----

// recorded: its place in the record
static void check_digest(const Record *r, size_t recorded, const uint8_t digest[32], const char *name, const char *what) {
    char line[240], there[MAX_SHOWN + 4], now[65];
    hex(now, digest);
    show_value(there, &r->json, recorded);
    snprintf(line, sizeof line, "is not the %s of the record: its sha256 is %s, there it is %s", what, now, there);
    if (strcmp(there, now) != 0) die(name, line);
}

void record_check_model(const Session *s) {
    check_digest(s->replay, member(s->replay, 0, "model_sha256", JSON_STRING), s->model.sha256, s->opt.model, "model");
}

void record_check_pictures(const Session *s) {
    const JsonValue *v = s->replay->json.values;
    size_t all = member(s->replay, 0, "pictures", JSON_ARRAY), at = all + 1;
    for (int i = 0; i < s->n_pictures && at < v[all].end; i++, at = v[at].end) {
        uint8_t digest[32];
        picture_digest(&s->pictures[i], digest);
        check_digest(s->replay, member(s->replay, at, "sha256", JSON_STRING), digest, s->picture_names[i], "picture");
    }
}

void record_check_frame(const Session *s, const Video *v, int i) {
    const Record *r = s->replay;
    const JsonValue *values = r->json.values;
    size_t frames = member(r, member(r, 0, "video", JSON_OBJECT), "frames", JSON_ARRAY), at = frames + 1;
    char what[32];
    for (int k = 0; k < i && at < values[frames].end; k++) at = values[at].end;
    if (at >= values[frames].end) return;  // fewer than now, which the comparison will say
    snprintf(what, sizeof what, "frame %d", v->frames[i] + 1);
    check_digest(r, member(r, at, "sha256", JSON_STRING), v->sha256[i], v->name, what);
}

typedef struct {
    const Json *recorded, *now;
    char line[400];  // where they first differ
} Comparison;

static int say_difference(Comparison *c, const char *path, size_t a, size_t b) {
    char recorded[MAX_SHOWN + 4] = "missing", now[MAX_SHOWN + 4];
    if (a || !b) show_value(recorded, c->recorded, a);
    show_value(now, c->now, b);
    snprintf(c->line, sizeof c->line, "the answer differs: %s: %s in the record, %s now", path, recorded, now);
    return 1;
}

static int scalar_differs(const Comparison *c, const char *path, size_t a, size_t b) {
    char *recorded = json_text(c->recorded, a), *now = json_text(c->now, b);
    const char *name = strrchr(path, '.');
    int differs = strcmp(recorded, now) != 0;
    if (differs && c->now->values[b].kind == JSON_NUMBER) {
        double error = fabs(strtod(recorded, NULL) - strtod(now, NULL));
        differs = !(error <= (name && !strcmp(name, ".logprob") ? LOGPROB_ERROR : 0));
    }
    free(recorded);
    free(now);
    return differs;
}

static int is_compared(const char *name) {
    for (size_t i = 0; i < sizeof NOT_COMPARED / sizeof *NOT_COMPARED; i++) {
        if (!strcmp(name, NOT_COMPARED[i])) return 0;
    }
    return 1;
}

// Whether value a of the record differs from value b of now. Goes as deep as make_record, whatever the record holds.
static int differs(Comparison *c, const char *path, size_t a, size_t b) {  // NOLINT(misc-no-recursion): see above
    const JsonValue *x = &c->recorded->values[a], *y = &c->now->values[b], *of = c->now->values;
    if ((!a && *path) || x->kind != y->kind) return say_difference(c, path, a, b);
    int is_object = y->kind == JSON_OBJECT, index = 0;
    if (y->kind != JSON_ARRAY && !is_object) return scalar_differs(c, path, a, b) ? say_difference(c, path, a, b) : 0;
    size_t next = a + 1;
    for (size_t i = b + 1; i < y->end && (is_object || next < x->end); i = of[i].end, index++) {
        char inner[96];
        if (is_object) {
            char *name = json_text(c->now, i++);
            int skip = !is_compared(name);
            snprintf(inner, sizeof inner, "%s%s%s", path, *path ? "." : "", name);
            next = json_member(c->recorded, a, name);
            free(name);
            if (skip) continue;
        } else {
            snprintf(inner, sizeof inner, "%s[%d]", path, index);
        }
        if (differs(c, inner, next, i)) return 1;
        if (!is_object) next = c->recorded->values[next].end;
    }
    return x->n_children == y->n_children ? 0 : say_difference(c, *path ? path : "the record", a, b);
}

static void print_maker(const char *what, const Json *j) {
    printf("%s", what);
    for (int i = 0; i < 4; i++) {
        size_t value = json_member(j, 0, NOT_COMPARED[i]);
        char text[MAX_SHOWN + 4] = "unknown";
        if (value) show_value(text, j, value);
        printf("%s%s %s", i ? ", " : "", NOT_COMPARED[i], text);
    }
    putchar('\n');
}

void record_compare(const Session *s, const Answer *a) {
    const Record *r = s->replay;
    Json now;
    SmolErr err;
    Buffer b = make_record(s, a);
    JsonValue *values = need(NULL, (b.n / 2 + JSON_DEPTH) * sizeof *values, "record");
    if (json_read(&now, b.bytes, b.n, values, &err)) die(NULL, err.text);
    Comparison c = {.recorded = &r->json, .now = &now};
    if (differs(&c, "", 0, 0)) die(r->path, c.line);
    const char *what = a->n_choices ? "choices" : "of answer";
    printf("equal: %d tokens of prompt, %d %s, all log-probabilities and logits\n", a->n_prompt,
           a->n_choices ? a->n_choices : a->n_ids, what);
    print_maker("record: ", &r->json);
    print_maker("replay: ", &now);
    free(values);
    free(b.bytes);
}
