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
    return (Matrix){t.data, bias < 0 ? NULL : engine_vector(e, bias), t.n_rows, t.n_cols};
}

void engine_product(const SmolEngine *e, float *y, int ldy, const float *x, int ldx, int weight, int bias, int n_tok) {
    Matrix w = engine_matrix(e, weight, bias);
    matmul(e->kernel, e->limits.n_threads, y, ldy, x, ldx, &w, n_tok);
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

static void take_kv(SmolArena *a, KvLayer *kv, int n_pos, int n_kv_heads, int head_dim, const char *name, SmolErr *err) {
    uint64_t v_floats, k_floats = kv_floats(n_pos, n_kv_heads, head_dim, &v_floats);
    float *k = arena_take(a, (k_floats + v_floats) * sizeof(float), name, err);
    if (kv) *kv = (KvLayer){k, k ? k + k_floats : NULL, n_pos, n_kv_heads, head_dim};
}

static void layout_kept(SmolEngine *e, SmolArena *a, SmolErr *err) {
    const SmolConfig *c = &e->model->config;
    const SmolLimits *l = &e->limits;
    e->kv = arena_take(a, (uint64_t)c->n_layers * sizeof *e->kv, "layer table", err);
    for (int i = 0; i < c->n_layers; i++) {
        take_kv(a, e->kv ? &e->kv[i] : NULL, l->context, c->n_kv_heads, c->head_dim, "KV cache", err);
    }
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
    e->h = take_rows(a, n, c->hidden_dim, "decoder activations", err);
    e->h2 = take_rows(a, n, c->hidden_dim, "decoder activations", err);
    e->cos = take_rows(a, n, c->head_dim / 2, "decoder activations", err);
    e->sin = take_rows(a, n, c->head_dim / 2, "decoder activations", err);
    uint64_t scores = (uint64_t)e->limits.n_threads * attention_floats(e->limits.context, c->head_dim);
    e->scores = arena_take(a, scores * sizeof(float), "decoder attention", err);
}

static int max(int a, int b) { return a > b ? a : b; }

static void layout_encoder(SmolEngine *e, SmolArena *a, SmolErr *err) {
    const SmolConfig *c = &e->model->config;
    int grid = c->image_size / c->patch_size, n_patch = grid * grid, shuffled = c->v_dim * c->scale_factor * c->scale_factor;
    int widest = max(max(c->v_dim, 3 * c->patch_size * c->patch_size), shuffled);
    e->vx = take_rows(a, n_patch, c->v_dim, "encoder activations", err);
    e->vq = take_rows(a, n_patch, c->v_dim, "encoder activations", err);
    take_kv(a, &e->vkv, n_patch, c->v_heads, c->v_dim / c->v_heads, "encoder keys and values", err);
    e->block = take_rows(a, VISION_BLOCK, widest, "encoder activations", err);
    e->block2 = take_rows(a, VISION_BLOCK, max(c->v_dim, c->dim), "encoder activations", err);
    e->block3 = take_rows(a, VISION_BLOCK, c->v_dim, "encoder activations", err);
    e->vh = take_rows(a, VISION_BLOCK, c->v_hidden_dim, "encoder activations", err);
    uint64_t scores = (uint64_t)e->limits.n_threads * attention_floats(n_patch, c->v_dim / c->v_heads);
    e->vscores = arena_take(a, scores * sizeof(float), "encoder attention", err);
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
    return code ? code : carve(engine, m, limits, &a, err);
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
