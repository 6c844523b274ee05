// save.c: a conversation in a file, with the keys and values that reading it again would cost. All numbers are little-endian:
//
//     "SMOLTALK"  version u32, bytes of keys and values of a position u32, model's sha256, state of the random numbers u64
//     n_pictures u32, each: width, height and the numbers of its SmolTiling, u32 each
//     n_videos u32, each: n_frames u32, duration f64, seconds f64 (n_frames)
//     n_messages u32, n_encoded u32, each message: role u32, n_pictures u32, videos u32 (0 or 1), n_text u32, text
//     n_positions u32, their ids i32 (n_positions), keys and values (n_positions, bytes of a position)
//     sha256 of all before it
//
// The pictures themselves are not there: what the model saw of them is in its keys and values.

#define _DEFAULT_SOURCE

#include "session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char MAGIC[8] = {'S', 'M', 'O', 'L', 'T', 'A', 'L', 'K'};
enum { VERSION = 1, FRAME = 8 + 4 + 4 + 32, DIGEST = 32 };

static const char *const roles[] = {"system", "user", "assistant"};
enum { N_ROLES = sizeof roles / sizeof *roles };

static int refuse(SmolErr *err, const char *why) {
    snprintf(err->text, sizeof err->text, "%s", why);
    return -1;
}

// ---- writing ----

typedef struct {
    FILE *f;
    SmolSha256 sha;
    int failed;
} Writer;

static void put(Writer *w, const void *bytes, size_t n) {
    smol_sha256_add(&w->sha, bytes, n);
    if (!w->failed && fwrite(bytes, 1, n, w->f) != n) w->failed = errno;
}

static void put_u32(Writer *w, uint32_t v) { put(w, &v, sizeof v); }

static void put_pictures(Writer *w, const Session *s) {
    put_u32(w, (uint32_t)s->n_pictures);
    for (int i = 0; i < s->n_pictures; i++) {
        put_u32(w, (uint32_t)s->pictures[i].width);
        put_u32(w, (uint32_t)s->pictures[i].height);
        put(w, &s->tilings[i], sizeof s->tilings[i]);
    }
    put_u32(w, (uint32_t)s->n_videos);
    for (int i = 0; i < s->n_videos; i++) {
        const SmolVideo *v = &s->videos[i].video;
        put_u32(w, (uint32_t)v->n_frames);
        put(w, &v->duration, sizeof v->duration);
        put(w, v->seconds, (size_t)v->n_frames * sizeof *v->seconds);
    }
}

static void put_messages(Writer *w, const Session *s) {
    put_u32(w, (uint32_t)s->n_messages);
    put_u32(w, (uint32_t)s->n_encoded);
    for (int i = 0; i < s->n_messages; i++) {
        const SmolMessage *m = &s->messages[i];
        uint32_t role = 0;
        while (role < N_ROLES - 1 && strcmp(m->role, roles[role]) != 0) role++;
        put_u32(w, role);
        put_u32(w, (uint32_t)m->n_pictures);
        put_u32(w, m->video != NULL);
        put_u32(w, (uint32_t)m->n_text);
        put(w, m->text, m->n_text);
    }
}

static void put_cache(Writer *w, const Session *s) {
    int n = smol_position(s->engine);
    size_t n_bytes = smol_kv_bytes(s->engine);
    void *bytes = need(NULL, n_bytes, "keys and values");
    put_u32(w, (uint32_t)n);
    put(w, s->cached, (size_t)n * sizeof *s->cached);
    for (int i = 0; i < n; i++) {
        smol_kv_get(s->engine, i, bytes);
        put(w, bytes, n_bytes);
    }
    free(bytes);
}

static void put_all(Writer *w, const Session *s) {
    uint8_t digest[DIGEST];
    smol_sha256_init(&w->sha);
    put(w, MAGIC, sizeof MAGIC);
    put_u32(w, VERSION);
    put_u32(w, (uint32_t)smol_kv_bytes(s->engine));
    put(w, s->model.sha256, sizeof s->model.sha256);
    put(w, &s->sampling.rng, sizeof s->sampling.rng);
    put_pictures(w, s);
    put_messages(w, s);
    put_cache(w, s);
    smol_sha256_end(&w->sha, digest);
    put(w, digest, sizeof digest);
}

// Whether a name is free, or another conversation's: a slip of the fingers must not cost a model or a picture.
static int may_write(const char *name, SmolErr *err) {
    char begin[sizeof MAGIC] = {0};
    FILE *f = fopen(name, "rb");
    if (!f) return errno == ENOENT ? 1 : (refuse(err, strerror(errno)), 0);
    size_t n = fread(begin, 1, sizeof begin, f);
    fclose(f);
    if (n == sizeof begin && !memcmp(begin, MAGIC, sizeof MAGIC)) return 1;
    return refuse(err, "is there already, and no saved conversation: choose another name"), 0;
}

static int can_save(const Session *s, SmolErr *err) {
    int seen = s->n_pictures == s->n_asked && s->n_videos == s->n_videos_asked;
    for (int i = s->n_encoded; i < s->n_messages; i++) seen = seen && !s->messages[i].n_pictures && !s->messages[i].video;
    return seen ? 0 : refuse(err, "there are pictures that the model has not seen yet: ask a question first");
}

int session_save(Session *s, const char *name, SmolErr *err) {
    Writer w = {0};
    Buffer temporary = {0};
    if (can_save(s, err) || !may_write(name, err)) return -1;
    buffer_add(&temporary, name, strlen(name));
    buffer_add(&temporary, ".tmp", 4);
    w.f = fopen(temporary.bytes, "wb");
    if (!w.f) w.failed = errno;
    if (w.f) put_all(&w, s);
    if (w.f && fclose(w.f) && !w.failed) w.failed = errno;
    if (!w.failed && replace_file(temporary.bytes, name)) w.failed = errno;
    if (w.f && w.failed) remove(temporary.bytes);
    free(temporary.bytes);
    return w.failed ? refuse(err, strerror(w.failed)) : 0;
}

// ---- reading: once to check, once more to take ----

typedef struct {
    const uint8_t *p;
    size_t n;
    const SmolModel *model;
    size_t kv_bytes;
    Session *to;  // NULL: only to check
    uint32_t n_pictures, n_videos, n_positions;
    int bad;
} Reader;

// n bytes in place, or NULL.
static const uint8_t *get_bytes(Reader *r, size_t n) {
    if (n > r->n) r->bad = 1;
    if (r->bad) return NULL;
    r->p += n;
    r->n -= n;
    return r->p - n;
}

static void get(Reader *r, void *out, size_t n) {
    const uint8_t *bytes = get_bytes(r, n);
    if (bytes) memcpy(out, bytes, n);
    else memset(out, 0, n);
}

// A number from least to most, or least and a fault.
static uint32_t get_u32(Reader *r, uint32_t least, uint32_t most) {
    uint32_t v;
    get(r, &v, sizeof v);
    if (v < least || v > most) r->bad = 1;
    return r->bad ? least : v;
}

static int good_tiling(const SmolConfig *c, const SmolTiling *t) {
    const int most = 1 << 20, most_tiles = 100;
    int sizes = t->resized_w > 0 && t->resized_w < most && t->resized_h > 0 && t->resized_h < most && t->cut_w > 0 &&
                t->cut_w < most && t->cut_h > 0 && t->cut_h < most;
    int grid = (t->rows == 0 && t->cols == 0) || (t->rows > 0 && t->rows <= most_tiles && t->cols > 0 && t->cols <= most_tiles);
    return sizes && grid && t->n_tiles == t->rows * t->cols + 1 && t->n_tokens == t->n_tiles * c->image_seq_len;
}

static void get_pictures(Reader *r) {
    const SmolConfig *c = &r->model->config;
    r->n_pictures = get_u32(r, 0, c->image_seq_len ? MAX_IMAGES : 0);
    for (uint32_t i = 0; i < r->n_pictures && !r->bad; i++) {
        SmolPicture p = {.width = (int)get_u32(r, 1, 1 << 20)};
        SmolTiling t;
        p.height = (int)get_u32(r, 1, 1 << 20);
        get(r, &t, sizeof t);
        if (!good_tiling(c, &t)) r->bad = 1;
        if (!r->to) continue;
        r->to->pictures[i] = p;
        r->to->tilings[i] = t;
        r->to->picture_names[i] = "a loaded picture";
        r->to->n_pictures = r->to->n_asked = (int)i + 1;
    }
}

static void get_videos(Reader *r) {
    r->n_videos = get_u32(r, 0, r->model->config.image_seq_len ? MAX_VIDEOS : 0);
    for (uint32_t i = 0; i < r->n_videos && !r->bad; i++) {
        Video v = {.video = {.n_frames = (int)get_u32(r, 1, 999)}};
        get(r, &v.video.duration, sizeof v.video.duration);
        size_t n = (size_t)v.video.n_frames * sizeof *v.seconds;
        const uint8_t *seconds = get_bytes(r, n);
        if (!r->to || !seconds) continue;
        v.video.seconds = v.seconds = memcpy(need(NULL, n, "video"), seconds, n);
        r->to->videos[i] = v;
        r->to->n_videos = r->to->n_videos_asked = (int)i + 1;
    }
}

static void take_message(Session *s, uint32_t role, const uint8_t *text, uint32_t n_text, int n_pictures, int has_video) {
    int picture = 0, video = 0;
    for (int i = 0; i < s->n_messages; i++) {
        picture += s->messages[i].n_pictures;
        video += s->messages[i].video != NULL;
    }
    add_message(s, roles[role], (const char *)text, n_text);
    SmolMessage *m = &s->messages[s->n_messages - 1];
    m->n_pictures = n_pictures;
    if (n_pictures) m->pictures = s->tilings + picture;
    if (has_video) m->video = &s->videos[video].video;
}

static void get_messages(Reader *r) {
    uint32_t n = get_u32(r, 0, INT32_MAX), n_encoded = get_u32(r, 0, n), pictures_left = r->n_pictures, videos_left = r->n_videos;
    for (uint32_t i = 0; i < n && !r->bad; i++) {
        uint32_t role = get_u32(r, 0, N_ROLES - 1), n_pictures = get_u32(r, 0, pictures_left);
        uint32_t n_videos = get_u32(r, 0, videos_left && !n_pictures), n_text = get_u32(r, 0, INT32_MAX);
        const uint8_t *text = get_bytes(r, n_text);
        if (i >= n_encoded && (n_pictures || n_videos)) r->bad = 1;
        if (r->to && text) take_message(r->to, role, text, n_text, (int)n_pictures, (int)n_videos);
        pictures_left -= n_pictures;
        videos_left -= n_videos;
    }
    if (pictures_left || videos_left) r->bad = 1;
    if (r->to) r->to->n_encoded = (int)n_encoded;
}

static void get_cache(Reader *r) {
    size_t n_bytes = r->kv_bytes;
    uint32_t n = r->n_positions = get_u32(r, 0, INT32_MAX / sizeof(int32_t));
    const uint8_t *ids = get_bytes(r, n * sizeof(int32_t));
    if (!ids || r->n % n_bytes || r->n / n_bytes != n) r->bad = 1;
    for (uint32_t i = 0; i < n && !r->bad; i++) {
        int32_t id;
        memcpy(&id, ids + i * sizeof id, sizeof id);
        if (id < 0 || id >= r->model->config.vocab_size) r->bad = 1;
        if (!r->to) continue;
        r->to->cached[i] = id;
        r->bad |= smol_kv_add(r->to->engine, r->p + i * n_bytes) != 0;
    }
}

static void get_all(Reader *r) {
    uint64_t rng;
    get(r, &rng, sizeof rng);
    get_pictures(r);
    get_videos(r);
    get_messages(r);
    get_cache(r);
    if (r->to) r->to->sampling.rng = rng;
}

// What stands before the numbers of the conversation, and the checksum behind them.
static int check_frame(const Session *s, const uint8_t *bytes, size_t n, SmolErr *err) {
    SmolSha256 sha;
    uint8_t digest[DIGEST];
    uint32_t version = 0, kv_bytes = 0;
    if (n < sizeof MAGIC || memcmp(bytes, MAGIC, sizeof MAGIC) != 0) return refuse(err, "is no saved conversation");
    if (n < FRAME + DIGEST) return refuse(err, "is cut off");
    memcpy(&version, bytes + 8, sizeof version);
    memcpy(&kv_bytes, bytes + 12, sizeof kv_bytes);
    if (version != VERSION) {
        snprintf(err->text, sizeof err->text, "has version %u of the format, this program reads version %d", version, VERSION);
        return -1;
    }
    smol_sha256_init(&sha);
    smol_sha256_add(&sha, bytes, n - DIGEST);
    smol_sha256_end(&sha, digest);
    if (memcmp(digest, bytes + n - DIGEST, DIGEST) != 0) return refuse(err, "is cut off or damaged: its checksum does not fit");
    if (memcmp(bytes + 16, s->model.sha256, sizeof s->model.sha256) != 0) return refuse(err, "was saved with another model");
    if (kv_bytes != smol_kv_bytes(s->engine)) return refuse(err, "was saved with, or without, --kv-int8: start the chat in the same way");
    return 0;
}

static int take(Session *s, const uint8_t *bytes, size_t n, SmolErr *err) {
    if (check_frame(s, bytes, n, err)) return -1;
    Reader all = {.p = bytes + FRAME, .n = n - FRAME - DIGEST, .model = &s->model, .kv_bytes = smol_kv_bytes(s->engine)}, check = all;
    get_all(&check);
    if (check.bad) return refuse(err, "is damaged: what it says cannot be");
    if (check.n_positions > (uint32_t)s->limits.context) {
        snprintf(err->text, sizeof err->text, "holds %u tokens, and the context %d: start with a larger -c", check.n_positions,
                 s->limits.context);
        return -1;
    }
    session_clear(s);
    all.to = s;
    get_all(&all);
    return 0;
}

// The whole file, if it begins as one of ours does: nobody wants to wait for another.
static int read_file(const char *name, Buffer *all, SmolErr *err) {
    char block[1 << 16];
    size_t n;
    FILE *f = fopen(name, "rb");
    if (!f) return refuse(err, strerror(errno));
    buffer_add(all, "", 0);
    errno = 0;
    while ((n = fread(block, 1, sizeof block, f)) > 0) {
        buffer_add(all, block, n);
        if (all->n >= sizeof MAGIC && memcmp(all->bytes, MAGIC, sizeof MAGIC) != 0) break;
    }
    int failed = ferror(f) ? errno : 0;
    fclose(f);
    return failed ? refuse(err, strerror(failed)) : 0;
}

int session_load(Session *s, const char *name, SmolErr *err) {
    Buffer all = {0};
    int code = read_file(name, &all, err);
    if (!code) code = take(s, (const uint8_t *)all.bytes, all.n, err);
    free(all.bytes);
    return code;
}
