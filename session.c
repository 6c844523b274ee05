// session.c: a conversation: its messages and their pictures, the prompt that they make, the memory that it needs.

#define _DEFAULT_SOURCE

#include "session.h"

#include <stdlib.h>
#include <string.h>

enum { CHAT_CONTEXT = 4096, BATCH = 128 };

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

void add_message(Session *s, const char *role, const char *text, size_t n) {
    s->messages = need(s->messages, (size_t)(s->n_messages + 1) * sizeof *s->messages, "conversation");
    char *copy = need(NULL, n + 1, "conversation");
    memcpy(copy, text, n);
    copy[n] = 0;
    s->messages[s->n_messages++] = (SmolMessage){.role = role, .text = copy, .n_text = n};
}

void add_question(Session *s, const char *text, size_t n) {
    add_message(s, "user", text, n);
    SmolMessage *m = &s->messages[s->n_messages - 1];
    m->pictures = s->tilings + s->n_asked;
    m->n_pictures = s->n_pictures - s->n_asked;
    s->n_asked = s->n_pictures;
    if (s->n_videos > s->n_videos_asked) m->video = &s->videos[s->n_videos_asked++].video;
}

Video *video_of(Session *s, const SmolMessage *m) {
    int i = 0;
    while (&s->videos[i].video != m->video) i++;
    return &s->videos[i];
}

void drop_question(Session *s) {
    const SmolMessage *m = &s->messages[--s->n_messages];
    s->n_asked -= m->n_pictures;
    s->n_pictures = s->n_asked;
    if (m->video) {
        video_close(video_of(s, m));
        s->n_videos = --s->n_videos_asked;
    }
}

// ---- changes to what has been said ----

// Placeholders of all pictures are alike, so that what the cache holds of pictures cannot be told from what will be there.
static void forget_pictures(Session *s) {
    int keep = 0, held = s->engine ? smol_position(s->engine) : 0;
    while (keep < held && s->cached[keep] != s->model.config.image_token_id) keep++;
    if (s->engine) smol_rewind(s->engine, keep);
    s->n_encoded = 0;
    s->warned = 0;
}

static int is_system(const SmolMessage *m) { return !strcmp(m->role, "system"); }

// Each message's pictures and video lie behind those of the one before it.
static void relink(Session *s) {
    int picture = 0, video = 0;
    for (int i = 0; i < s->n_messages; i++) {
        SmolMessage *m = &s->messages[i];
        if (m->n_pictures) m->pictures = s->tilings + picture;
        if (m->video) m->video = &s->videos[video++].video;
        picture += m->n_pictures;
    }
}

// Whether the pictures and videos of messages from one on can be encoded again.
static int check_loaded(Session *s, int from, SmolErr *err) {
    for (int i = from; i < s->n_messages; i++) {
        const SmolMessage *m = &s->messages[i];
        for (int k = 0; k < m->n_pictures; k++) {
            if (!s->pictures[m->pictures + k - s->tilings].bytes) goto gone;
        }
        if (m->video && !video_of(s, m)->frames) goto gone;
    }
    return 0;
gone:
    snprintf(err->text, sizeof err->text, "the pictures of a loaded conversation cannot be looked at again: only /reset drops them");
    return -1;
}

static void remove_message(Session *s, int i) {
    SmolMessage *m = &s->messages[i];
    size_t n = (size_t)m->n_pictures, left = (size_t)s->n_pictures - n;
    free((char *)(uintptr_t)m->text);
    if (n) {  // they are the first ones
        memmove(s->pictures, s->pictures + n, left * sizeof *s->pictures);
        memmove(s->tilings, s->tilings + n, left * sizeof *s->tilings);
        memmove(s->picture_names, s->picture_names + n, left * sizeof *s->picture_names);
        s->n_pictures -= (int)n;
        s->n_asked -= (int)n;
    }
    if (m->video) {
        video_close(&s->videos[0]);
        memmove(s->videos, s->videos + 1, (size_t)--s->n_videos * sizeof *s->videos);
        s->n_videos_asked--;
    }
    memmove(m, m + 1, (size_t)(--s->n_messages - i) * sizeof *m);
    relink(s);
}

int set_system(Session *s, const char *text, size_t n, SmolErr *err) {
    if (check_loaded(s, 0, err)) return -1;
    forget_pictures(s);
    if (s->n_messages && is_system(s->messages)) remove_message(s, 0);
    if (!n) return 0;
    add_message(s, "system", text, n);
    SmolMessage last = s->messages[s->n_messages - 1];
    memmove(s->messages + 1, s->messages, (size_t)(s->n_messages - 1) * sizeof last);
    s->messages[0] = last;
    return 0;
}

int drop_oldest(Session *s, SmolErr *err) {
    int first = s->n_messages && is_system(s->messages), after = first + 1;
    if (first == s->n_messages) return snprintf(err->text, sizeof err->text, "there is no question to drop"), -1;
    while (after < s->n_messages && strcmp(s->messages[after].role, "user") != 0) after++;
    if (check_loaded(s, after, err)) return -1;
    forget_pictures(s);
    while (after-- > first) remove_message(s, first);
    return 0;
}

static void forget_from(Session *s, int first) {
    forget_pictures(s);
    while (s->n_messages > first) remove_message(s, first);
    while (s->n_videos) video_close(&s->videos[--s->n_videos]);  // that no question has had yet
    s->n_pictures = s->n_asked = s->n_videos_asked = 0;
}

void session_reset(Session *s) { forget_from(s, s->n_messages && is_system(s->messages)); }

void session_clear(Session *s) {
    forget_from(s, 0);
    smol_rewind(s->engine, 0);
}

// ---- pictures and videos ----

size_t pixel_bytes(const SmolConfig *c) {
    return (size_t)3 * (size_t)c->tile_size * (size_t)c->tile_size * sizeof(float);
}

void print_cost(const char *before, const SmolTiling *t, const char *after) {
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

int add_picture(Session *s, const char *name, SmolErr *err) {
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

int add_video(Session *s, const char *name, SmolErr *err) {
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

void add_inputs(Session *s) {
    SmolErr err;
    for (int i = 0; i < s->opt.n_images; i++) {
        if (add_picture(s, s->opt.images[i], &err)) die(s->opt.images[i], err.text);
    }
    if (s->opt.video && add_video(s, s->opt.video, &err)) die(s->opt.video, err.text);
}

// ---- the prompt ----

static int render(const Session *s, SmolPrompt *out, SmolErr *err) {
    if (s->opt.raw) return smol_prompt_raw(&s->model, &s->messages[s->n_messages - 1], s->opt.special, out, err);
    return smol_prompt_chat(&s->model, s->messages, s->n_messages, out, err);
}

// The whole conversation to s->ids: counted first, then written.
int session_tokenize(Session *s, SmolErr *err) {
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

// An answer has at least one token, whose place may be beyond the last; so is that of a choice's end.
static int fits(const Session *s, int context) {
    return s->n_ids + (s->opt.n_choices ? s->opt.n_tokens - 1 : 1) <= context;
}

// Whether the conversation would fit without tiling. s->ids is lost, but then it did not fit.
static int fits_untiled(Session *s, int context) {
    SmolTiling tiled[MAX_IMAGES];
    SmolErr err;
    int good = 1;
    memcpy(tiled, s->tilings, sizeof tiled);
    for (int i = 0; i < s->n_pictures; i++) {
        const SmolPicture *p = &s->pictures[i];
        good = good && smol_picture_tiling(&s->model.config, p->width, p->height, 0, &s->tilings[i], &err) == 0;
    }
    good = good && session_tokenize(s, &err) == 0 && fits(s, context);
    memcpy(s->tilings, tiled, sizeof tiled);
    return good;
}

// How many frames of the question's video would fit, 0 if none. s->ids and the choice of frames are lost, but then they
// did not fit.
static int fitting_frames(Session *s, int context) {
    const SmolMessage *m = &s->messages[s->n_messages - 1];
    SmolErr err;
    for (int n = m->video ? m->video->n_frames - 1 : 0; n > 0; n--) {
        if (video_choose(video_of(s, m), &s->model.config, n, &err) || session_tokenize(s, &err)) return 0;
        if (fits(s, context)) return n;
    }
    return 0;
}

int check_context(Session *s, int context, SmolErr *err) {
    const SmolConfig *c = &s->model.config;
    long n_ids = s->n_ids;
    int n_image = image_tokens(s), n_tiles = 0, n_frames = 0, fitting;
    if (n_ids < 1) return snprintf(err->text, sizeof err->text, "the prompt is empty"), -1;
    if (fits(s, context)) return 0;
    if (n_ids < context) {
        snprintf(err->text, sizeof err->text, "the prompt has %ld tokens and the longest choice %d, and the context holds %d",
                 n_ids, s->opt.n_tokens - 1, context);
        return -1;
    }
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

int wanted_context(const Session *s) {
    const SmolConfig *c = &s->model.config;
    if (s->opt.context) return s->opt.context;
    int64_t wanted = s->opt.prompt ? (int64_t)s->n_ids + s->opt.n_tokens : CHAT_CONTEXT;
    return wanted < c->max_positions ? (int)wanted : c->max_positions;
}

int session_plan(Session *s, SmolErr *err) {
    const Options *o = &s->opt;
    int context = wanted_context(s), sees = s->model.config.family == SMOL_SMOLVLM;
    s->limits = (SmolLimits){
        .context = context,
        .batch = context < BATCH ? context : BATCH,
        .n_image_tokens = o->prompt ? image_tokens(s) : sees ? context : 0,
        .n_threads = o->threads,
        .vision = (!o->prompt && sees) || s->n_pictures > 0 || s->n_videos > 0,
        .all_logits = o->trace != NULL,
        .kv_int8 = o->kv_int8,
        .kernel = o->kernel,
    };
    return smol_plan(&s->model, &s->limits, NULL, NULL, &s->engine_bytes, err);
}

// Bytes aligned for the engine; never freed, they live as long as the program.
int session_start(Session *s, SmolErr *err) {
    s->cached = need(NULL, (size_t)s->limits.context * sizeof *s->cached, "prompt");
    void *arena = aligned_64(need(NULL, s->engine_bytes + 63, "engine"));
    if (smol_start(&s->engine, &s->model, &s->limits, arena, s->engine_bytes, err)) return -1;
    if (s->opt.logprobs > s->model.config.vocab_size) s->opt.logprobs = s->model.config.vocab_size;
    if (s->opt.trace) s->trace = trace_open(s->opt.trace);
    if (s->opt.dump_tiles) dump_open(s->opt.dump_tiles);
    if (s->opt.record) check_writable(s->opt.record);
    smol_listen(s->engine, show_progress, s->trace ? trace_piece : NULL, s);
    s->sampling = (SmolSampling){.temperature = s->opt.temperature, .top_p = s->opt.top_p, .top_k = s->opt.top_k,
                                 .min_p = s->opt.min_p, .rng = s->opt.seed, .repeat_penalty = s->opt.repeat_penalty,
                                 .seen = s->cached};
    return 0;
}
