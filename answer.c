// answer.c: a question's pictures to features, its prompt and features to an answer, which is printed as it comes.
//
// A conversation is rendered whole for every question and compared with what the KV cache holds: the common prefix, pictures
// included, is kept and only the rest is computed.

#define _DEFAULT_SOURCE

#include "session.h"

#include <stdlib.h>
#include <string.h>

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
        picture_digest(&p, v->sha256[s->frame]);
        if (s->replay) record_check_frame(s, v, s->frame);
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

void flush_output(void) {
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
    if (!s->opt.json && !s->replay) {
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

static int read_prompt(Session *s, Answer *a, int n_features, const float **logits, SmolErr *err) {
    double begin = now_ms();
    const int32_t *next = s->ids + a->n_reused;
    int n_next = a->n_prompt - a->n_reused;
    int code = smol_forward(s->engine, next, n_next, n_features ? smol_features(s->engine) : NULL, n_features, logits, err);
    if (code) return code;
    s->n_encoded = s->n_messages;
    memcpy(s->cached + a->n_reused, next, (size_t)n_next * sizeof *next);
    a->prompt_ms = now_ms() - begin;
    return 0;
}

// Token by token, after the prompt, whose last logits these are.
static void speak(Session *s, Answer *a, const float *logits, SmolSha256 *digest) {
    const SmolConfig *c = &s->model.config;
    SmolErr err;
    Utf8 utf8 = {0};
    for (;;) {
        s->sampling.n_seen = s->sampling.repeat_penalty > 1 ? smol_position(s->engine) : 0;
        int32_t id = smol_sample(s->engine, logits, &s->sampling);
        a->finish = interrupted ? "interrupted" : is_end(c, id) ? "stop" : NULL;
        if (a->finish) break;
        a->ids = need(a->ids, (size_t)(a->n_ids + 1) * sizeof *a->ids, "answer");
        a->ids[a->n_ids++] = id;
        if (s->opt.logprobs || s->opt.record || s->replay) logprobs_add(a, logits, c->vocab_size, s->opt.logprobs, id);
        say(s, a, &utf8, id);
        if (!a->finish && !s->opt.no_loop_check && in_loop(a)) a->finish = "loop";
        if (a->finish) break;
        a->finish = a->n_ids == s->opt.n_tokens ? "length" : smol_position(s->engine) == s->limits.context ? "context" : NULL;
        if (a->finish) break;
        s->cached[smol_position(s->engine)] = id;
        if (smol_forward(s->engine, &id, 1, NULL, 0, &logits, &err)) die(NULL, err.text);
        smol_sha256_add(digest, logits, (size_t)c->vocab_size * sizeof *logits);
    }
    say_end(s, a, &utf8);
}

// Runs prompt and answer. Returns 0, or a negative code before anything was said.
static int decode(Session *s, Answer *a, int n_features, SmolErr *err) {
    const float *logits;
    SmolSha256 digest;
    smol_sha256_init(&digest);
    buffer_add(&a->text, "", 0);
    int code = read_prompt(s, a, n_features, &logits, err);
    if (code) return code;
    double begin = now_ms();
    smol_sha256_add(&digest, logits, (size_t)s->model.config.vocab_size * sizeof *logits);
    if (s->opt.n_choices) code = choices_score(s, a, logits, &digest, err);
    else speak(s, a, logits, &digest);
    a->decode_ms = now_ms() - begin;
    smol_sha256_end(&digest, a->logits_sha256);
    return code;
}

int session_answer(Session *s, Answer *a, SmolErr *err, const char **culprit) {
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

void session_report(const Session *s, const Answer *a) {
    const char *kernel = smol_kernel_name(s->engine);
    if (s->replay) {
        record_compare(s, a);
    } else if (s->opt.json) {
        const SmolVideo *video = s->n_videos ? &s->videos[s->n_videos - 1].video : NULL;
        report_json(&s->opt, &s->model, a, s->ids, s->pictures, s->tilings, s->n_pictures, video,
                    s->engine_bytes + s->picture_bytes, kernel);
    } else if (s->opt.n_choices) {
        report_choices(a);
    } else {
        putchar('\n');
    }
    flush_output();
    if (!strcmp(a->finish, "loop")) {
        fputs("the answer went round in a loop and was ended; with --no-loop-check it goes on\n", stderr);
    }
    if (s->opt.logprobs && !s->opt.json) report_logprobs(&s->model, a, s->opt.logprobs);
    if (s->opt.timings) report_timings(a, kernel, s->opt.threads);
}
