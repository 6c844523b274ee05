// vision.c: a tile's pixels to rows that the decoder reads like words (SmolVLMVisionTransformer, SmolVLMConnector).
//
//     pixels (3, S, S) -- patch product + position --> x (n_patch, v_dim)          S = image_size, n_patch = (S / patch_size)^2
//     v_layers times:   x += out(attention(q, k, v of LN1(x)))                     every patch sees all others
//                       x += fc2(gelu(fc1(LN2(x))))
//     LN(x) -- pixel shuffle --> (image_seq_len, v_dim s^2) -- product --> (image_seq_len, dim)        s = scale_factor
//
// Products run over blocks of VISION_BLOCK patches, so that only x, the queries, keys and values are ever held whole.

#include "internal.h"

#include <string.h>

// A view of what the functions below share.
typedef struct {
    SmolEngine *e;
    const SmolConfig *c;
    int grid, n_patch;
    int ld;  // of rows of v_dim
} Encoder;

// ---- patches ----

// One patch as a row: channel, then line, then column, as a convolution's weight is flattened.
static void patch_row(const Encoder *v, float *out, const float *pixels, int patch) {
    int size = v->c->patch_size, side = v->c->image_size;
    const float *corner = pixels + (size_t)(patch / v->grid * size) * (size_t)side + patch % v->grid * size;
    for (int channel = 0; channel < 3; channel++) {
        for (int y = 0; y < size; y++, out += size) {
            memcpy(out, corner + ((size_t)channel * (size_t)side + (size_t)y) * (size_t)side, (size_t)size * sizeof *out);
        }
    }
}

static void embed_patches(const Encoder *v, const float *pixels) {
    SmolEngine *e = v->e;
    int width = 3 * v->c->patch_size * v->c->patch_size;
    const float *pos_emb = engine_vector(e, e->at.pos_emb);  // (n_patch, v_dim)
    for (int p = 0; p < v->n_patch; p += VISION_BLOCK) {
        int n = v->n_patch - p < VISION_BLOCK ? v->n_patch - p : VISION_BLOCK;
        for (int i = 0; i < n; i++) patch_row(v, row_of(e->block, i, width), pixels, p + i);
        engine_product(e, row_of(e->vx, p, v->ld), v->ld, e->block, width, e->at.patch_w, e->at.patch_b, n);
        for (int i = p; i < p + n; i++) add(row_of(e->vx, i, v->ld), pos_emb + (size_t)i * (size_t)v->c->v_dim, v->c->v_dim);
    }
    engine_trace(e, "model.vision_model.embeddings", -1, e->vx, v->n_patch, v->c->v_dim, v->ld);
}

// ---- one layer ----

// LN1, then queries to vq, keys and values to the layer's panels.
static void project_qkv(const Encoder *v, int layer, int first, int n) {
    SmolEngine *e = v->e;
    const float *w = engine_vector(e, layer + LN1_W), *b = engine_vector(e, layer + LN1_B);
    for (int i = 0; i < n; i++) {
        layernorm(row_of(e->block, i, v->ld), row_of(e->vx, first + i, v->ld), w, b, v->c->v_dim, v->c->v_eps);
    }
    engine_product(e, row_of(e->vq, first, v->ld), v->ld, e->block, v->ld, layer + VQ_W, layer + VQ_B, n);
    engine_product(e, e->block2, v->ld, e->block, v->ld, layer + VK_W, layer + VK_B, n);
    engine_product(e, e->block3, v->ld, e->block, v->ld, layer + VV_W, layer + VV_B, n);
    for (int i = 0; i < n; i++) kv_store(&e->vkv, first + i, row_of(e->block2, i, v->ld), row_of(e->block3, i, v->ld));
}

// x += out(attention); x += mlp(LN2(x))
static void project_out_mlp(const Encoder *v, int layer, int first, int n) {
    SmolEngine *e = v->e;
    int d = v->c->v_dim, hidden = round_up(v->c->v_hidden_dim, LANES);
    const float *w = engine_vector(e, layer + LN2_W), *b = engine_vector(e, layer + LN2_B);
    engine_product(e, e->block2, v->ld, row_of(e->vq, first, v->ld), v->ld, layer + VO_W, layer + VO_B, n);
    for (int i = 0; i < n; i++) {
        float *x = row_of(e->vx, first + i, v->ld);
        add(x, row_of(e->block2, i, v->ld), d);
        layernorm(row_of(e->block, i, v->ld), x, w, b, d, v->c->v_eps);
    }
    engine_product(e, e->vh, hidden, e->block, v->ld, layer + FC1_W, layer + FC1_B, n);
    for (int i = 0; i < n; i++) gelu_tanh(row_of(e->vh, i, hidden), v->c->v_hidden_dim);
    engine_product(e, e->block2, v->ld, e->vh, hidden, layer + FC2_W, layer + FC2_B, n);
    for (int i = 0; i < n; i++) add(row_of(e->vx, first + i, v->ld), row_of(e->block2, i, v->ld), d);
}

static void encoder_layer(const Encoder *v, int i) {
    SmolEngine *e = v->e;
    int layer = e->at.vision_layers + i * N_VISION_LAYER;
    for (int p = 0; p < v->n_patch; p += VISION_BLOCK) {
        project_qkv(v, layer, p, v->n_patch - p < VISION_BLOCK ? v->n_patch - p : VISION_BLOCK);
    }
    attention(e->kernel, e->limits.n_threads, e->vq, v->ld, v->n_patch, v->c->v_heads, &e->vkv, v->n_patch, 0, e->vscores);
    for (int p = 0; p < v->n_patch; p += VISION_BLOCK) {
        project_out_mlp(v, layer, p, v->n_patch - p < VISION_BLOCK ? v->n_patch - p : VISION_BLOCK);
    }
    engine_trace(e, "model.vision_model.encoder.layers.", i, e->vx, v->n_patch, v->c->v_dim, v->ld);
}

// ---- connector ----

// Row i of the shuffled grid: the s x s patches of its square, line by line, one after another.
static void shuffle_row(const Encoder *v, float *out, int i) {
    int s = v->c->scale_factor, side = v->grid / s, d = v->c->v_dim;
    int corner = i / side * s * v->grid + i % side * s;
    for (int dy = 0; dy < s; dy++) {
        for (int dx = 0; dx < s; dx++, out += d) {
            memcpy(out, row_of(v->e->vx, corner + dy * v->grid + dx, v->ld), (size_t)d * sizeof *out);
        }
    }
}

static void connect(const Encoder *v, float *features) {
    SmolEngine *e = v->e;
    int dim = v->c->dim, width = v->c->v_dim * v->c->scale_factor * v->c->scale_factor, ld = round_up(dim, LANES);
    for (int p = 0; p < v->c->image_seq_len; p += VISION_BLOCK) {
        int n = v->c->image_seq_len - p < VISION_BLOCK ? v->c->image_seq_len - p : VISION_BLOCK;
        for (int i = 0; i < n; i++) shuffle_row(v, row_of(e->block, i, width), p + i);
        engine_product(e, e->block2, ld, e->block, width, e->at.connector, -1, n);
        for (int i = 0; i < n; i++) memcpy(row_of(features, p + i, dim), row_of(e->block2, i, ld), (size_t)dim * sizeof *features);
    }
    engine_trace(e, "model.connector", -1, features, v->c->image_seq_len, dim, dim);
}

int smol_encode_tile(SmolEngine *e, const float *pixels, float *features, SmolErr *err) {
    const SmolConfig *c = &e->model->config;
    int grid = c->image_size / c->patch_size;
    const Encoder v = {e, c, grid, grid * grid, round_up(c->v_dim, LANES)};
    if (!e->limits.vision) return fail(err, SMOL_E_LIMIT, "the engine was started without vision");

    embed_patches(&v, pixels);
    for (int i = 0; i < c->v_layers; i++) {
        encoder_layer(&v, i);
        if (e->progress && e->progress(e->user, "layer", i + 1, c->v_layers)) return fail(err, SMOL_E_CANCELLED, "cancelled");
    }
    const float *w = engine_vector(e, e->at.post_ln_w), *b = engine_vector(e, e->at.post_ln_b);
    for (int p = 0; p < v.n_patch; p++) layernorm(row_of(e->vx, p, v.ld), row_of(e->vx, p, v.ld), w, b, c->v_dim, c->v_eps);
    engine_trace(e, "model.vision_model.post_layernorm", -1, e->vx, v.n_patch, c->v_dim, v.ld);
    connect(&v, features);
    return 0;
}
