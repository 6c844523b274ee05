// engine.c: the memory plan. One function lays all buffers out, once with no memory to add them up, once to place them, so that
// the plan cannot drift from what is used.

#include "internal.h"

// ---- views of the model ----

const float *engine_vector(const SmolEngine *e, int i) {
    SmolTensor t;
    smol_tensor(e->model, i, &t);
    return t.data;
}

Matrix engine_matrix(const SmolEngine *e, int weight, int bias) {
    SmolTensor t;
    smol_tensor(e->model, weight, &t);
    return (Matrix){t.data, bias < 0 ? NULL : engine_vector(e, bias), t.type, t.n_rows, t.n_cols};
}

Product engine_product(const SmolEngine *e, float *y, int ldy, int weight, int bias) {
    return (Product){engine_matrix(e, weight, bias), y, (size_t)ldy, 0};
}

Input input_of(const float *x, int ldx, int n_cols, void *int8, int n_tok) {
    return (Input){x, (size_t)ldx, n_cols, int8_rows(int8, n_tok, n_cols), 0};
}

void engine_trace(const SmolEngine *e, const char *name, int layer, const float *x, int n_rows, int n_cols, int ld) {
    char text[96];
    if (!e->trace) return;
    format_text(text, sizeof text, layer < 0 ? "%s" : "%s%d", name, layer);
    e->trace(e->user, text, x, n_rows, n_cols, ld);
}

// ---- layout ----

// n rows of width floats, each row padded to whole panels. The ranges of model.c keep all products below 2^63.
static float *take_rows(SmolArena *a, int n, int width, const char *name, SmolErr *err) {
    return arena_take(a, (uint64_t)n * (uint64_t)round_up(width, LANES) * sizeof(float), name, err);
}

static int max(int a, int b) { return a > b ? a : b; }

static void take_kv(SmolArena *a, KvLayer *kv, const char *name, SmolErr *err) {
    void *room = arena_take(a, kv_bytes(kv), name, err);
    if (room) kv_place(kv, room);
}

static KvType kv_type(const SmolEngine *e) {
    return e->limits.kv_int8 ? KV_INT8 : e->model->config.weight_type == WEIGHTS_F32 ? KV_F32 : KV_F16;
}

// Whether a layer's matrix, of all layers, is kept in floats anywhere: what it reads is then needed in floats.
static int any_floats(const SmolEngine *e, int first, int n_layers, int step) {
    for (int i = 0; i < n_layers; i++) {
        if (engine_matrix(e, first + i * step, -1).type == SMOL_F32X16) return 1;
    }
    return 0;
}

static void layout_workers(SmolEngine *e, SmolArena *a, SmolErr *err) {
    const SmolLimits *l = &e->limits;
    int rows = l->batch < MOST_ROWS ? round_up(l->batch, TOKENS) : MOST_ROWS;
    float *tiles = arena_take(a, (uint64_t)l->n_threads * tile_floats(rows) * sizeof(float), "tiles", err);
    e->workers = (Workers){e->kernel, l->n_threads, rows, tiles};
}

static void layout_kept(SmolEngine *e, SmolArena *a, SmolErr *err) {
    const SmolConfig *c = &e->model->config;
    const SmolLimits *l = &e->limits;
    e->kv = arena_take(a, (uint64_t)c->n_layers * sizeof *e->kv, "layer table", err);
    for (int i = 0; i < c->n_layers; i++) {
        KvLayer kv = {.type = kv_type(e), .n_pos = l->context, .n_kv_heads = c->n_kv_heads, .head_dim = c->head_dim};
        take_kv(a, &kv, "KV cache", err);
        if (e->kv) e->kv[i] = kv;
    }
    if (l->vision) e->rooms = arena_take(a, (uint64_t)l->n_threads * sizeof *e->rooms, "thread table", err);
    layout_workers(e, a, err);
    e->features = take_rows(a, l->n_image_tokens, c->dim, "picture features", err);
    e->logits = take_rows(a, l->all_logits ? l->batch : 1, c->vocab_size, "logits", err);
    e->probs = take_rows(a, 1, c->vocab_size, "sampling", err);
    e->order = arena_take(a, (uint64_t)c->vocab_size * sizeof *e->order, "sampling", err);
}

static void layout_decoder(SmolEngine *e, SmolArena *a, SmolErr *err) {
    const SmolConfig *c = &e->model->config;
    int n = e->limits.batch;
    e->x = take_rows(a, n, c->dim, "decoder activations", err);
    e->xb = take_rows(a, n, c->dim, "decoder activations", err);
    e->q = take_rows(a, n, c->n_heads * c->head_dim, "decoder activations", err);
    e->k = take_rows(a, n, c->n_kv_heads * c->head_dim, "decoder activations", err);
    e->v = take_rows(a, n, c->n_kv_heads * c->head_dim, "decoder activations", err);
    int floats = any_floats(e, e->at.text_layers + W_DOWN, c->n_layers, N_TEXT_LAYER);
    if (floats) e->h = take_rows(a, n, c->hidden_dim, "decoder activations", err);
    e->cos = take_rows(a, n, c->head_dim / 2, "decoder activations", err);
    e->sin = take_rows(a, n, c->head_dim / 2, "decoder activations", err);
    if (c->weight_type != WEIGHTS_F32) {
        e->int8 = arena_take(a, int8_bytes(n, max(c->dim, c->n_heads * c->head_dim)), "decoder activations", err);
        e->int8_h = arena_take(a, int8_bytes(n, c->hidden_dim), "decoder activations", err);
    }
    uint64_t scores = attention_floats(e->limits.context, c->n_heads, c->n_kv_heads, c->head_dim);
    e->scores = arena_take(a, (uint64_t)e->limits.n_threads * scores * sizeof(float), "decoder attention", err);
}

// Keys and values, and the shuffled rows, for which they make room.
static void layout_encoder_kv(SmolEngine *e, SmolArena *a, SmolErr *err) {
    const SmolConfig *c = &e->model->config;
    int grid = c->image_size / c->patch_size, n_patch = grid * grid, head_dim = c->v_dim / c->v_heads;
    if (c->weight_type == WEIGHTS_F32) {
        e->vkv = (KvLayer){.type = KV_F32, .n_pos = n_patch, .n_kv_heads = c->v_heads, .head_dim = head_dim};
        take_kv(a, &e->vkv, "encoder keys and values", err);
        e->vscores = arena_take(a, (uint64_t)e->limits.n_threads * 4 * attention_floats(n_patch, 1, 1, head_dim),
                                "encoder attention", err);
        return;
    }
    uint64_t v, k = int8_kv_bytes(n_patch, c->v_heads, head_dim, &v);
    uint64_t rows = int8_bytes(c->image_seq_len, c->v_dim * c->scale_factor * c->scale_factor);
    e->shuffled = arena_take(a, rows > k + v ? rows : k + v, "encoder keys and values", err);
    e->vkv8 = (Int8Kv){e->shuffled, e->shuffled ? (uint8_t *)e->shuffled + k : NULL, n_patch, c->v_heads, head_dim};
    e->vscores = arena_take(a, (uint64_t)e->limits.n_threads * attention_int8_bytes(n_patch, head_dim), "encoder attention", err);
}

static void layout_encoder(SmolEngine *e, SmolArena *a, SmolErr *err) {
    const SmolConfig *c = &e->model->config;
    int grid = c->image_size / c->patch_size, n_patch = grid * grid, patch = 3 * c->patch_size * c->patch_size;
    int n_mlp = mlp_rows(&e->limits), floats = any_floats(e, e->at.vision_layers + FC2_W, c->v_layers, N_VISION_LAYER);
    e->vx = take_rows(a, n_patch, c->v_dim, "encoder activations", err);
    e->vq = take_rows(a, n_patch, c->v_dim, "encoder activations", err);
    layout_encoder_kv(e, a, err);
    e->vy = take_rows(a, c->image_seq_len, c->dim, "encoder activations", err);
    for (int i = 0; i < e->limits.n_threads; i++) {
        VisionRoom r = {.alone = e->workers};
        r.alone.n_threads = 1;
        if (r.alone.tiles) r.alone.tiles += (size_t)i * (size_t)tile_floats(r.alone.rows);
        r.in = take_rows(a, VISION_BLOCK, max(c->v_dim, patch), "encoder activations", err);
        r.a = take_rows(a, VISION_BLOCK, c->v_dim, "encoder activations", err);
        r.b = take_rows(a, VISION_BLOCK, c->v_dim, "encoder activations", err);
        if (floats) r.h = take_rows(a, n_mlp, c->v_hidden_dim, "encoder activations", err);
        if (c->weight_type != WEIGHTS_F32) {
            r.int8 = arena_take(a, int8_bytes(VISION_BLOCK, max(c->v_dim, patch)), "encoder activations", err);
            r.int8_h = arena_take(a, int8_bytes(n_mlp, c->v_hidden_dim), "encoder activations", err);
        }
        if (e->rooms) e->rooms[i] = r;
    }
}

// The encoder is done with a tile before the decoder starts, so both use the same bytes.
static void layout(SmolEngine *e, SmolArena *a, SmolErr *err) {
    layout_kept(e, a, err);
    SmolArena shared = *a;
    layout_decoder(e, a, err);
    if (e->limits.vision) {
        layout_encoder(e, &shared, err);
        if (shared.used > a->used) a->used = shared.used;
    }
}

// ---- plan and start ----

static int check_limits(const SmolModel *m, const SmolLimits *l, SmolErr *err) {
    if (l->context < 1 || l->context > m->config.max_positions) {
        return fail(err, SMOL_E_LIMIT, "context %d is not within 1 to the model's %d", l->context, m->config.max_positions);
    }
    if (l->n_threads < 1 || l->n_threads > 1024) return fail(err, SMOL_E_LIMIT, "%d threads are not within 1 to 1024", l->n_threads);
    if (l->batch < 1 || l->n_image_tokens < 0) {
        return fail(err, SMOL_E_LIMIT, "a batch of %d or %d image tokens is out of range", l->batch, l->n_image_tokens);
    }
    if (m->config.family != SMOL_SMOLVLM && (l->vision || l->n_image_tokens)) {
        return fail(err, SMOL_E_LIMIT, "this model reads text only, no pictures");
    }
    if (!kernel_find(l->kernel)) return fail(err, SMOL_E_LIMIT, "kernel %s is not known, or not for this machine", l->kernel);
    return 0;
}

static int carve(SmolEngine **engine, const SmolModel *m, const SmolLimits *limits, SmolArena *a, SmolErr *err) {
    err->code = 0;
    SmolEngine counted, *e = arena_take(a, sizeof *e, "engine", err);
    if (!e) e = &counted;
    *e = (SmolEngine){.model = m, .kernel = kernel_find(limits->kernel), .at = model_places(&m->config), .limits = *limits};
    if (!err->code) layout(e, a, err);
    *engine = e == &counted ? NULL : e;
    return err->code;
}

int smol_plan(const SmolModel *m, const SmolLimits *limits, void (*note)(void *user, const char *name, size_t bytes),
              void *user, size_t *bytes, SmolErr *err) {
    int code = check_limits(m, limits, err);
    if (code) return code;
    SmolArena counting = {.note = note, .user = user};
    SmolEngine *none;
    code = carve(&none, m, limits, &counting, err);
    *bytes = counting.used;
    return code;
}

int smol_start(SmolEngine **engine, const SmolModel *m, const SmolLimits *limits, void *arena, size_t bytes, SmolErr *err) {
    int code = check_limits(m, limits, err);
    SmolArena a = {.base = arena, .size = bytes};
    if (code) return code;
    if (!arena) return fail(err, SMOL_E_MEMORY, "there is no arena");
    if ((uintptr_t)arena % 64) return fail(err, SMOL_E_MEMORY, "the arena lies at an address that is no multiple of 64");
    return carve(engine, m, limits, &a, err);
}

// ---- small things ----

void smol_listen(SmolEngine *e, SmolProgress progress, SmolTrace trace, void *user) {
    e->progress = progress;
    e->trace = trace;
    e->user = user;
}

const char *smol_kernel_name(const SmolEngine *e) { return e->kernel->name; }

float *smol_features(SmolEngine *e) { return e->features; }

int smol_position(const SmolEngine *e) { return e->position; }

void smol_rewind(SmolEngine *e, int position) {
    if (position >= 0 && position < e->position) e->position = position;
}

// ---- keys and values to keep ----

size_t smol_kv_bytes(const SmolEngine *e) { return (size_t)e->model->config.n_layers * kv_position_bytes(e->kv); }

void smol_kv_get(const SmolEngine *e, int position, void *out) {
    uint8_t *to = out;
    for (int i = 0; i < e->model->config.n_layers; i++, to += kv_position_bytes(e->kv)) kv_get(&e->kv[i], position, to);
}

int smol_kv_add(SmolEngine *e, const void *bytes) {
    const uint8_t *from = bytes;
    if (e->position == e->limits.context) return SMOL_E_LIMIT;
    for (int i = 0; i < e->model->config.n_layers; i++, from += kv_position_bytes(e->kv)) kv_put(&e->kv[i], e->position, from);
    e->position++;
    return 0;
}
