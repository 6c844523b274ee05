// run.c: the command line. Maps the model, reads pictures, takes the memory, asks the engine and prints as it answers.
//
// A conversation is rendered whole for every question and compared with what the KV cache holds: the common prefix, pictures
// included, is kept and only the rest is computed.

#define _DEFAULT_SOURCE

#include "cli.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHAT_CONTEXT = 4096, BATCH = 128 };

typedef struct {
    Options opt;
    SmolModel model;
    SmolEngine *engine;  // NULL until the first question
    SmolLimits limits;
    size_t engine_bytes, picture_bytes;  // the second: the largest of all pictures
    double load_ms;
    Trace *trace;

    SmolMessage *messages;  // the conversation so far
    int n_messages;
    SmolPicture pictures[MAX_IMAGES];  // of all messages, in order
    SmolTiling tilings[MAX_IMAGES];
    const char *picture_names[MAX_IMAGES];
    int n_pictures, n_asked;  // those of messages already rendered
    Video videos[MAX_VIDEOS];
    int n_videos, n_videos_asked;
    int n_encoded;  // messages whose pictures and videos are in the KV cache

    int32_t *ids;  // the prompt
    long n_ids;
    int32_t *cached;  // what the KV cache holds, smol_position() of them
    SmolSampling sampling;
    int frame, n_frames;  // of the video that is encoded
    char stage[40];       // "tile 3/13", for the progress line
    char stem[40];        // "picture_01", for the names of dumped tiles
} Session;

static volatile sig_atomic_t interrupted;
static volatile sig_atomic_t waiting;   // for a question: there is nothing to end cleanly
static volatile sig_atomic_t prompted;  // the terminal's cursor stands behind a prompt

// Ctrl-C is noticed between steps.
static void on_interrupt(int number) {
    (void)number;
    if (waiting) {
        ssize_t ignored = prompted ? write(STDERR_FILENO, "\n", 1) : 0;
        (void)ignored;
        _exit(130);
    }
    interrupted = 1;
}

// ---- what the engine tells while it works ----

static int show_progress(void *user, const char *stage, int done, int total) {
    const Session *s = user;
    char line[96];
    if (!strcmp(stage, "layer")) snprintf(line, sizeof line, "%s, layer %d/%d", s->stage, done, total);
    else snprintf(line, sizeof line, "prompt: %d/%d tokens", done, total);
    if (total > 1) progress(done < total ? line : NULL);
    return interrupted;
}

static void trace_piece(void *user, const char *name, const float *x, int n_rows, int n_cols, int ld) {
    trace_add(((Session *)user)->trace, name, x, n_rows, n_cols, ld);
}

// ---- the conversation ----

static void add_message(Session *s, const char *role, const char *text, size_t n) {
    s->messages = need(s->messages, (size_t)(s->n_messages + 1) * sizeof *s->messages, "conversation");
    char *copy = need(NULL, n + 1, "conversation");
    memcpy(copy, text, n);
    copy[n] = 0;
    s->messages[s->n_messages++] = (SmolMessage){.role = role, .text = copy, .n_text = n};
}

// A question with the pictures or the video added since the last one.
static void add_question(Session *s, const char *text, size_t n) {
    add_message(s, "user", text, n);
    SmolMessage *m = &s->messages[s->n_messages - 1];
    m->pictures = s->tilings + s->n_asked;
    m->n_pictures = s->n_pictures - s->n_asked;
    s->n_asked = s->n_pictures;
    if (s->n_videos > s->n_videos_asked) m->video = &s->videos[s->n_videos_asked++].video;
}

static Video *video_of(Session *s, const SmolMessage *m) {
    int i = 0;
    while (&s->videos[i].video != m->video) i++;
    return &s->videos[i];
}

static void drop_question(Session *s) {
    const SmolMessage *m = &s->messages[--s->n_messages];
    s->n_asked -= m->n_pictures;
    s->n_pictures = s->n_asked;
    if (m->video) {
        video_close(video_of(s, m));
        s->n_videos = --s->n_videos_asked;
    }
}

static size_t pixel_bytes(const SmolConfig *c) {
    return (size_t)3 * (size_t)c->tile_size * (size_t)c->tile_size * sizeof(float);
}

static void print_cost(const char *before, const SmolTiling *t, const char *after) {
    fprintf(stderr, "%s%d tile%s, %d image tokens%s", before, t->n_tiles, t->n_tiles == 1 ? "" : "s", t->n_tokens, after);
}

// The reference's tiling. --max-tiles takes the largest longest_edge, a multiple of the tile, whose tiles are few enough; what
// that saves is said before anything is encoded.
static int choose_tiling(const Session *s, const char *name, const SmolPicture *p, SmolTiling *t, SmolErr *err) {
    SmolConfig c = s->model.config;
    int split = c.do_image_splitting && !s->opt.no_tiling;
    int code = smol_picture_tiling(&c, p->width, p->height, split, t, err);
    SmolTiling before = *t;
    while (!code && split && s->opt.max_tiles && t->n_tiles > s->opt.max_tiles && c.longest_edge > c.tile_size) {
        c.longest_edge = (c.longest_edge - 1) / c.tile_size * c.tile_size;
        code = smol_picture_tiling(&c, p->width, p->height, split, t, err);
    }
    if (!code && s->opt.max_tiles) {
        fprintf(stderr, "%s: ", name);
        print_cost("", t, "");
        print_cost(" (without --max-tiles ", &before, ")\n");
    }
    return code;
}

// Reads and probes a picture. Returns 0, or -1 with err filled.
static int add_picture(Session *s, const char *name, SmolErr *err) {
    const SmolConfig *c = &s->model.config;
    int i = s->n_pictures;
    if (i == MAX_IMAGES) {
        snprintf(err->text, sizeof err->text, "too many pictures, the most is %d", MAX_IMAGES);
        return -1;
    }
    if (s->n_videos > s->n_videos_asked) {
        snprintf(err->text, sizeof err->text, "a question has pictures or a video, not both");
        return -1;
    }
    size_t n;
    const uint8_t *bytes = load_file(name, &n, err);
    if (!bytes || smol_picture_probe(&s->pictures[i], bytes, n, err) ||
        choose_tiling(s, name, &s->pictures[i], &s->tilings[i], err)) {
        return -1;
    }
    size_t work = smol_picture_bytes(c, &s->pictures[i], &s->tilings[i]) + pixel_bytes(c);
    if (work > s->picture_bytes) s->picture_bytes = work;
    s->picture_names[i] = name;
    s->n_pictures++;
    return 0;
}

// Opens a video and chooses its frames. Returns 0, or -1 with err filled.
static int add_video(Session *s, const char *name, SmolErr *err) {
    Video *v = &s->videos[s->n_videos];
    const char *why = s->n_videos == MAX_VIDEOS            ? "too many videos"
                      : s->n_videos > s->n_videos_asked    ? "a question has one video, and there is one already"
                      : s->n_pictures > s->n_asked         ? "a question has pictures or a video, not both"
                      : !s->opt.prompt && !strcmp(name, "-") ? "a chat reads questions from standard input"
                                                           : NULL;
    if (why) return snprintf(err->text, sizeof err->text, "%s", why), -1;
    if (video_open(v, name, &s->model.config, s->opt.fps, s->opt.max_frames, err)) return -1;
    size_t work = v->work_bytes + pixel_bytes(&s->model.config);
    if (work > s->picture_bytes) s->picture_bytes = work;
    s->n_videos++;
    return 0;
}

// What the command line names, for the first question.
static void add_inputs(Session *s) {
    SmolErr err;
    for (int i = 0; i < s->opt.n_images; i++) {
        if (add_picture(s, s->opt.images[i], &err)) die(s->opt.images[i], err.text);
    }
    if (s->opt.video && add_video(s, s->opt.video, &err)) die(s->opt.video, err.text);
}

static int render(const Session *s, SmolPrompt *out, SmolErr *err) {
    if (s->opt.raw) return smol_prompt_raw(&s->model, &s->messages[s->n_messages - 1], s->opt.special, out, err);
    return smol_prompt_chat(&s->model, s->messages, s->n_messages, out, err);
}

// The whole conversation to s->ids: counted first, then written.
static int tokenize(Session *s, SmolErr *err) {
    SmolPrompt p = {0};
    int code = render(s, &p, err);
    if (code) return code;
    p.text_cap = p.n_text;
    p.user_cap = p.n_user;
    p.text = need(NULL, p.text_cap, "prompt");
    p.user = need(NULL, p.user_cap * sizeof *p.user, "prompt");
    if ((code = render(s, &p, err))) return code;

    SmolArena scratch = {.size = smol_tokenize_bytes(&s->model, p.n_text)};
    scratch.base = need(NULL, scratch.size, "tokenizer");
    s->ids = need(s->ids, (p.n_text + 1) * sizeof *s->ids, "prompt");
    s->n_ids = smol_tokenize(&s->model, &p, s->ids, &scratch, err);
    free(scratch.base);
    free(p.user);
    free(p.text);
    return s->n_ids < 0 ? -1 : 0;
}

// ---- memory ----

static int image_tokens(const Session *s) {
    int n = 0;
    for (int i = 0; i < s->n_pictures; i++) n += s->tilings[i].n_tokens;
    for (int i = 0; i < s->n_videos; i++) n += s->videos[i].video.n_frames * s->model.config.image_seq_len;
    return n;
}

// Whether the conversation would fit without tiling. s->ids is lost, but then it did not fit.
static int fits_untiled(Session *s, int context) {
    SmolTiling tiled[MAX_IMAGES];
    SmolErr err;
    int fits = 1;
    memcpy(tiled, s->tilings, sizeof tiled);
    for (int i = 0; i < s->n_pictures; i++) {
        const SmolPicture *p = &s->pictures[i];
        fits = fits && smol_picture_tiling(&s->model.config, p->width, p->height, 0, &s->tilings[i], &err) == 0;
    }
    fits = fits && tokenize(s, &err) == 0 && s->n_ids < context;
    memcpy(s->tilings, tiled, sizeof tiled);
    return fits;
}

// How many frames of the question's video would fit, 0 if none. s->ids and the choice of frames are lost, but then they
// did not fit.
static int fitting_frames(Session *s, int context) {
    const SmolMessage *m = &s->messages[s->n_messages - 1];
    SmolErr err;
    for (int n = m->video ? m->video->n_frames - 1 : 0; n > 0; n--) {
        if (video_choose(video_of(s, m), &s->model.config, n, &err) || tokenize(s, &err)) return 0;
        if (s->n_ids < context) return n;
    }
    return 0;
}

// Whether the prompt and one token more fit the context, or an error that says what would.
static int check_context(Session *s, int context, SmolErr *err) {
    const SmolConfig *c = &s->model.config;
    long n_ids = s->n_ids;
    int n_image = image_tokens(s), n_tiles = 0, n_frames = 0, fitting;
    if (n_ids < 1) return snprintf(err->text, sizeof err->text, "the prompt is empty"), -1;
    if (n_ids < context) return 0;
    for (int i = 0; i < s->n_pictures; i++) n_tiles += s->tilings[i].n_tiles;
    for (int i = 0; i < s->n_videos; i++) n_frames += s->videos[i].video.n_frames;
    char pictures[64] = "", fewer[56] = "", longer[40] = "";
    if (n_image) {
        const char *what = n_frames == 0 ? "tiles" : n_tiles == 0 ? "frames" : "tiles and frames";
        snprintf(pictures, sizeof pictures, ", %d of them from %d %s", n_image, n_tiles + n_frames, what);
    }
    if (n_ids < c->max_positions) {
        int64_t wanted = (int64_t)n_ids + s->opt.n_tokens;
        snprintf(longer, sizeof longer, "; -c %d would fit", wanted < c->max_positions ? (int)wanted : c->max_positions);
    }
    if (n_tiles > s->n_pictures && fits_untiled(s, context)) {
        snprintf(fewer, sizeof fewer, "; --no-tiling would fit, with %d image tokens", s->n_pictures * c->image_seq_len);
    } else if ((fitting = fitting_frames(s, context))) {
        snprintf(fewer, sizeof fewer, "; --max-frames %d would fit", fitting);
    }
    snprintf(err->text, sizeof err->text, "the prompt has %ld tokens%s, and the context holds %d (the model's most is %d)%s%s",
             n_ids, pictures, context, c->max_positions, longer, fewer);
    return -1;
}

static int wanted_context(const Session *s) {
    const SmolConfig *c = &s->model.config;
    if (s->opt.context) return s->opt.context;
    int64_t wanted = s->opt.prompt ? (int64_t)s->n_ids + s->opt.n_tokens : CHAT_CONTEXT;
    return wanted < c->max_positions ? (int)wanted : c->max_positions;
}

static int plan(Session *s, SmolErr *err) {
    const Options *o = &s->opt;
    int context = wanted_context(s), sees = s->model.config.family == SMOL_SMOLVLM;
    s->limits = (SmolLimits){
        .context = context,
        .batch = context < BATCH ? context : BATCH,
        .n_image_tokens = o->prompt ? image_tokens(s) : sees ? context : 0,
        .n_threads = o->threads,
        .vision = (!o->prompt && sees) || s->n_pictures > 0 || s->n_videos > 0,
        .all_logits = o->trace != NULL,
        .kernel = o->kernel,
    };
    return smol_plan(&s->model, &s->limits, NULL, NULL, &s->engine_bytes, err);
}

// Bytes aligned for the engine; never freed, they live as long as the program.
static int start(Session *s, SmolErr *err) {
    s->cached = need(NULL, (size_t)s->limits.context * sizeof *s->cached, "prompt");
    void *arena = aligned_64(need(NULL, s->engine_bytes + 63, "engine"));
    if (smol_start(&s->engine, &s->model, &s->limits, arena, s->engine_bytes, err)) return -1;
    if (s->opt.trace) s->trace = trace_open(s->opt.trace);
    if (s->opt.dump_tiles) dump_open(s->opt.dump_tiles);
    smol_listen(s->engine, show_progress, s->trace ? trace_piece : NULL, s);
    s->sampling = (SmolSampling){.temperature = s->opt.temperature, .top_p = s->opt.top_p, .top_k = s->opt.top_k,
                                 .min_p = s->opt.min_p, .rng = s->opt.seed, .repeat_penalty = s->opt.repeat_penalty,
                                 .seen = s->cached};
    return 0;
}

// ---- pictures to features ----

static int encode_picture(Session *s, const SmolPicture *p, const SmolTiling *tiling, float *features, SmolErr *err) {
    const SmolConfig *c = &s->model.config;
    SmolTiles tiles;
    size_t n_bytes = smol_picture_bytes(c, p, tiling);
    uint8_t *memory = need(NULL, n_bytes + pixel_bytes(c) + 64, "picture");
    uint8_t *aligned = aligned_64(memory);
    float *pixels = (float *)(aligned + n_bytes);
    SmolArena arena = {.base = aligned, .size = n_bytes};
    int code = smol_picture_load(c, p, tiling, &arena, &tiles, err);
    if (!code && s->opt.dump_tiles) dump_tiles(s->opt.dump_tiles, s->stem, &tiles, c->tile_size);
    for (int t = 0; !code && t < tiles.tiling.n_tiles; t++) {
        if (s->n_frames) snprintf(s->stage, sizeof s->stage, "frame %d/%d", s->frame + 1, s->n_frames);
        else snprintf(s->stage, sizeof s->stage, "tile %d/%d", t + 1, tiles.tiling.n_tiles);
        smol_tile_pixels(c, &tiles, t, pixels);
        if (s->trace) trace_add(s->trace, "pixel_values", pixels, 3 * c->tile_size, c->tile_size, c->tile_size);
        code = smol_encode_tile(s->engine, pixels, features + (size_t)(t * c->image_seq_len) * (size_t)c->dim, err);
    }
    free(memory);
    return code;
}

static int encode_video(Session *s, Video *v, float *features, SmolErr *err) {
    const SmolConfig *c = &s->model.config;
    SmolPicture p;
    int code = 0;
    s->n_frames = v->video.n_frames;
    for (s->frame = 0; !code && s->frame < s->n_frames; s->frame++) {
        int number = v->frames[s->frame];
        if ((code = video_frame(v, number, &p, err))) break;
        size_t row = (size_t)s->frame * (size_t)c->image_seq_len;
        snprintf(s->stem, sizeof s->stem, "video_%02d_frame_%03d", (int)(v - s->videos) + 1, s->frame + 1);
        code = encode_picture(s, &p, &v->tiling, features + row * (size_t)c->dim, err);
        if (code && code != SMOL_E_CANCELLED) video_blame(v, number, err);
    }
    s->n_frames = 0;
    return code;
}

// The pictures or the video of a message; returns the rows of features, or a negative code.
static int encode_message(Session *s, const SmolMessage *m, Answer *a, float *features, SmolErr *err,
                          const char **culprit) {
    const SmolConfig *c = &s->model.config;
    int n_rows = 0, code = 0;
    for (int k = 0; !code && k < m->n_pictures; k++) {
        int i = (int)(m->pictures - s->tilings) + k;
        *culprit = s->picture_names[i];
        float *rows = features + (size_t)n_rows * (size_t)c->dim;
        snprintf(s->stem, sizeof s->stem, "picture_%02d", i + 1);
        if (s->opt.dump_tiles) code = dump_tiling(s->opt.dump_tiles, s->stem, &s->pictures[i], &s->tilings[i], err);
        if (!code) code = encode_picture(s, &s->pictures[i], &s->tilings[i], rows, err);
        n_rows += s->tilings[i].n_tokens;
        a->n_tiles += s->tilings[i].n_tiles;
    }
    if (m->video) {
        Video *v = video_of(s, m);
        *culprit = v->name;
        code = encode_video(s, v, features, err);
        n_rows += v->video.n_frames * c->image_seq_len;
        a->n_tiles += v->video.n_frames;
    }
    return code ? code : n_rows;
}

// All that the KV cache does not hold yet; returns the rows of features, or a negative code.
static int encode_pictures(Session *s, Answer *a, SmolErr *err, const char **culprit) {
    int n_rows = 0;
    double begin = now_ms();
    for (int i = s->n_encoded; i < s->n_messages; i++) {
        float *features = smol_features(s->engine) + (size_t)n_rows * (size_t)s->model.config.dim;
        int n = encode_message(s, &s->messages[i], a, features, err, culprit);
        if (n < 0) return n;
        n_rows += n;
    }
    *culprit = NULL;
    a->encode_ms = now_ms() - begin;
    return n_rows;
}

// ---- answering ----

static int is_end(const SmolConfig *c, int32_t id) {
    for (int i = 0; i < c->n_eos; i++) {
        if (c->eos_id[i] == id) return 1;
    }
    return 0;
}

static void flush_output(void) {
    if (fflush(stdout) || ferror(stdout)) die("standard output", "cannot be written to");
}

// Ends the answer before a stop text. Prints what is new, unless it goes to JSON or may yet become such a text.
static void show(const Session *s, Answer *a, Utf8 *utf8, int is_end) {
    int found;
    size_t until = stop_before(&s->opt, &a->text, a->shown, &found);
    if (found) {
        a->text.bytes[a->text.n = until] = 0;
        a->finish = "stop";
        *utf8 = (Utf8){0};
    }
    if (is_end) until = a->text.n;
    if (!s->opt.json) {
        fwrite(a->text.bytes + a->shown, 1, until - a->shown, stdout);
        flush_output();
    }
    a->shown = until;
}

// Adds a token's text to the answer and shows the characters that are now whole.
static void say(const Session *s, Answer *a, Utf8 *utf8, int32_t id) {
    size_t n;
    const char *text = smol_token_text(&s->model, id, &n);
    for (size_t i = 0; i < n; i++) {
        int is_leading_space = !s->opt.raw && smol_answer_space(&s->model) && a->text.n == 0 && utf8->n == 0 && text[i] == ' ';
        if (!is_leading_space) utf8_add(utf8, &a->text, text[i]);
    }
    show(s, a, utf8, 0);
}

// The answer may have ended within a character.
static void say_end(const Session *s, Answer *a, Utf8 *utf8) {
    utf8_end(utf8, &a->text);
    show(s, a, utf8, 1);
}

// Runs prompt and answer. Returns 0, or a negative code before anything was said.
static int decode(Session *s, Answer *a, int n_features, SmolErr *err) {
    const SmolConfig *c = &s->model.config;
    const float *logits;
    SmolSha256 digest;
    Utf8 utf8 = {0};
    smol_sha256_init(&digest);
    buffer_add(&a->text, "", 0);

    double begin = now_ms();
    const int32_t *next = s->ids + a->n_reused;
    int n_next = a->n_prompt - a->n_reused;
    int code = smol_forward(s->engine, next, n_next, n_features ? smol_features(s->engine) : NULL, n_features, &logits, err);
    if (code) return code;
    s->n_encoded = s->n_messages;
    memcpy(s->cached + a->n_reused, next, (size_t)n_next * sizeof *next);
    a->prompt_ms = now_ms() - begin;

    begin = now_ms();
    for (;;) {
        smol_sha256_add(&digest, logits, (size_t)c->vocab_size * sizeof *logits);
        s->sampling.n_seen = s->sampling.repeat_penalty > 1 ? smol_position(s->engine) : 0;
        int32_t id = smol_sample(s->engine, logits, &s->sampling);
        a->finish = interrupted ? "interrupted" : is_end(c, id) ? "stop" : NULL;
        if (a->finish) break;
        a->ids = need(a->ids, (size_t)(a->n_ids + 1) * sizeof *a->ids, "answer");
        a->ids[a->n_ids++] = id;
        say(s, a, &utf8, id);
        if (a->finish) break;
        a->finish = a->n_ids == s->opt.n_tokens ? "length" : smol_position(s->engine) == s->limits.context ? "context" : NULL;
        if (a->finish) break;
        s->cached[smol_position(s->engine)] = id;
        if (smol_forward(s->engine, &id, 1, NULL, 0, &logits, err)) die(NULL, err->text);
    }
    say_end(s, a, &utf8);
    a->decode_ms = now_ms() - begin;
    smol_sha256_end(&digest, a->logits_sha256);
    return 0;
}

// Answers the conversation's last question. Returns 0, or -1 with err filled and the culprit named.
static int answer(Session *s, Answer *a, SmolErr *err, const char **culprit) {
    *a = (Answer){.load_ms = s->load_ms, .n_prompt = (int)s->n_ids};
    int held = smol_position(s->engine);
    while (a->n_reused < held && a->n_reused < s->n_ids - 1 && s->cached[a->n_reused] == s->ids[a->n_reused]) a->n_reused++;
    smol_rewind(s->engine, a->n_reused);
    int n_features = encode_pictures(s, a, err, culprit);
    int code = n_features < 0 ? n_features : decode(s, a, n_features, err);
    progress(NULL);
    if (code) smol_rewind(s->engine, a->n_reused);  // what cached does not list
    if (code == SMOL_E_CANCELLED) {
        a->finish = "interrupted";
        buffer_add(&a->text, "", 0);
        code = 0;
    }
    return code;
}

static void report(const Session *s, const Answer *a) {
    const char *kernel = smol_kernel_name(s->engine);
    if (s->opt.json) {
        const SmolVideo *video = s->n_videos ? &s->videos[s->n_videos - 1].video : NULL;
        report_json(&s->opt, &s->model, a, s->ids, s->pictures, s->tilings, s->n_pictures, video,
                    s->engine_bytes + s->picture_bytes, kernel);
    } else {
        putchar('\n');
    }
    flush_output();
    if (s->opt.timings) report_timings(a, kernel, s->opt.threads);
}

// ---- one question ----

static int ask_once(Session *s) {
    SmolErr err;
    Answer a;
    const char *culprit = NULL;
    add_inputs(s);
    add_question(s, s->opt.prompt, strlen(s->opt.prompt));
    if (tokenize(s, &err)) die(NULL, err.text);
    if (s->opt.tokenize) {
        report_ids(s->ids, s->n_ids, s->opt.json);
        putchar('\n');
        return 0;
    }
    if (check_context(s, wanted_context(s), &err) || plan(s, &err)) die(NULL, err.text);
    if (s->opt.plan) {
        report_plan(&s->model, &s->limits, s->picture_bytes);
        return 0;
    }
    if (start(s, &err)) die(NULL, err.text);
    if (answer(s, &a, &err, &culprit)) die(culprit, err.text);
    report(s, &a);
    if (s->trace) trace_close(s->trace);
    return strcmp(a.finish, "interrupted") ? 0 : 130;
}

// ---- chat ----

static int chat_question(Session *s, const Buffer *line) {
    SmolErr err;
    Answer a;
    const char *culprit = NULL;
    add_question(s, line->bytes, line->n);
    if (tokenize(s, &err) || check_context(s, s->limits.context, &err) || answer(s, &a, &err, &culprit)) {
        complain(culprit, err.text);
        if (s->messages[s->n_messages - 1].n_pictures) complain(NULL, "its pictures go with it: add them again, or start with fewer");
        drop_question(s);
        return 1;
    }
    report(s, &a);
    size_t n = a.text.n;
    while (n && (a.text.bytes[n - 1] == ' ' || a.text.bytes[n - 1] == '\n')) n--;
    add_message(s, "assistant", a.text.bytes, n);
    free(a.text.bytes);
    free(a.ids);
    return 0;
}

static int chat_picture(Session *s, const char *name) {
    SmolErr err;
    if (add_picture(s, name, &err)) {
        complain(name, err.text);
        return 1;
    }
    s->picture_names[s->n_pictures - 1] = strcpy(need(NULL, strlen(name) + 1, "name"), name);
    if (!s->opt.max_tiles) {  // else it has been said
        fprintf(stderr, "%s: ", name);
        print_cost("", &s->tilings[s->n_pictures - 1], "\n");
    }
    return 0;
}

static int chat_video(Session *s, const char *name) {
    SmolErr err;
    if (add_video(s, name, &err)) {
        complain(name, err.text);
        return 1;
    }
    const Video *v = &s->videos[s->n_videos - 1];
    int n = v->video.n_frames;
    fprintf(stderr, "%s: %d of %d frames, %d tokens\n", name, n, v->n_total, n * s->model.config.image_seq_len);
    return 0;
}

// Spaces at the end are not part of a file's name.
static void trim_command(Buffer *line) {
    if (line->bytes[0] != '/') return;
    while (strchr(" \t", line->bytes[line->n - 1])) line->bytes[--line->n] = 0;
}

// A command or a question. Returns 0, or 1 after a complaint.
static int chat_line(Session *s, const Buffer *line) {
    if (line->bytes[0] != '/') return line->n ? chat_question(s, line) : 0;
    const char *name = line->bytes + strcspn(line->bytes, " ");
    name += strspn(name, " \t");
    if (!strncmp(line->bytes, "/image ", 7)) return chat_picture(s, name);
    if (!strncmp(line->bytes, "/video ", 7)) return chat_video(s, name);
    complain(NULL, "there are /image FILE, /video FILE and /quit");
    return 1;
}

// What failed was told when it did; to a script, the status says it again.
static int chat(Session *s) {
    SmolErr err;
    Buffer line = {0};
    int terminal = isatty(STDIN_FILENO), failed = 0;
    add_inputs(s);
    if (plan(s, &err) || start(s, &err)) die(NULL, err.text);
    const char *help = "/image FILE, /video FILE: part of the question; /quit or Ctrl-D ends, Ctrl-C stops an answer\n";
    if (terminal) fputs(help, stderr);
    for (;;) {
        waiting = 1;
        interrupted = 0;
        prompted = terminal;
        if (terminal) fputs("> ", stderr);
        int more = read_line(&line);
        waiting = 0;
        if (!more && terminal) fputc('\n', stderr);
        trim_command(&line);
        if (!more || !strcmp(line.bytes, "/quit")) break;
        failed |= chat_line(s, &line);
    }
    return failed && !terminal;
}

// ---- main ----

static int verify(const Session *s) {
    SmolErr err;
    int n_bad = 0;
    char line[96];
    for (int i = 0; i < s->model.n_tensors; i++) {
        snprintf(line, sizeof line, "tensor %d/%d", i + 1, s->model.n_tensors);
        progress(line);
        if (smol_verify(&s->model, i, &err) == 0) continue;
        complain(s->opt.model, err.text);
        n_bad++;
    }
    progress(NULL);
    printf("%s: %d of %d tensors have their recorded SHA-256 and finite values\n", s->opt.model, s->model.n_tensors - n_bad, s->model.n_tensors);
    return n_bad > 0;
}

static int list_kernels(void) {
    for (int i = 0; smol_kernel(i); i++) puts(smol_kernel(i));
    return 0;
}

// Who forgets MODEL has named something else first.
static _Noreturn void die_of_model(const char *name, const SmolErr *err) {
    char line[400];
    const char *end = strrchr(name, '.');
    int is_named_so = !strcmp(name, "-") || (end && !strcmp(end, ".smol"));
    snprintf(line, sizeof line, "%s%s", err->text,
             is_named_so ? "" : "; the first word is the MODEL, a .smol file: run MODEL [options] [PROMPT]");
    die(name, line);
}

static int work(Session *s) {
    SmolErr err;
    double begin = now_ms();
    size_t n;
    const uint8_t *bytes = load_file(s->opt.model, &n, &err);
    if (!bytes || smol_open(&s->model, bytes, n, &err)) die_of_model(s->opt.model, &err);
    s->load_ms = now_ms() - begin;
    if (s->opt.info) return report_info(&s->model, s->opt.model), 0;
    if (s->opt.verify) return verify(s);
    if (s->opt.score) return score(&s->model, &s->opt);
    if (s->opt.system) add_message(s, "system", s->opt.system, strlen(s->opt.system));
    return s->opt.prompt ? ask_once(s) : chat(s);
}

int main(int argc, char **argv) {
    static Session s;
    host_prepare(on_interrupt);
    int status = options_parse(&s.opt, argc, argv);
    if (status < 0) status = s.opt.list_kernels ? list_kernels() : work(&s);
    flush_output();
    return status;
}
