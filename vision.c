// vision.c: a tile's pixels to rows that the decoder reads like words (SmolVLMVisionTransformer, SmolVLMConnector).
//
//     pixels (3, S, S) -- patch product + position --> x (n_patch, v_dim)          S = image_size, n_patch = (S / patch_size)^2
//     v_layers times:   x += out(attention(q, k, v of LN1(x)))                     every patch sees all others
//                       x += fc2(gelu(fc1(LN2(x))))
//     LN(x) -- pixel shuffle --> (image_seq_len, v_dim s^2) -- product --> (image_seq_len, dim)        s = scale_factor
//
// Each thread takes blocks of at most VISION_BLOCK patches through a layer: what it works on stays in its cache, and only
// attention needs all patches. When the weights are quantised, so are the products of attention (attention_int8.c).

#include "internal.h"

#include <string.h>

// A view of what the functions below share.
typedef struct {
    SmolEngine *e;
    const SmolConfig *c;
    const float *pixels;  // (3, S, S)
    int grid, n_patch;
    int ld;  // of rows of v_dim
} Encoder;

typedef void BlockStep(const Encoder *v, int layer, int first, int n, const VisionRoom *room);

// Takes every block of patches through a step. Blocks begin with a multiple of unit and are about as long as each other, so
// that the threads are done at the same time.
static void for_blocks(const Encoder *v, BlockStep *step, int layer, int unit) {
    int n_threads = v->e->limits.n_threads, n_units = (v->n_patch + unit - 1) / unit;
    int n_blocks = round_up((v->n_patch + VISION_BLOCK - 1) / VISION_BLOCK, n_threads);
#pragma omp parallel for num_threads(n_threads) schedule(static, 1)
    for (int thread = 0; thread < n_threads; thread++) {
        for (int b = thread; b < n_blocks; b += n_threads) {
            int first = share(n_units, b, n_blocks) * unit, end = share(n_units, b + 1, n_blocks) * unit;
            int n = (end < v->n_patch ? end : v->n_patch) - first;
            if (n > 0) step(v, layer, first, n, &v->e->rooms[thread]);
        }
    }
}

// One thread's product of n rows of n_cols floats.
static void product(const VisionRoom *room, Product p, const float *x, int ldx, int n_cols, int n) {
    Input in = input_of(x, ldx, n_cols, room->int8, n);
    multiply(&room->alone, &in, &p, 1, n);
}

// ---- patches ----

// One patch as a row: channel, then line, then column, as a convolution's weight is flattened.
static void patch_row(const Encoder *v, float *out, int patch) {
    int size = v->c->patch_size, side = v->c->image_size;
    const float *corner = v->pixels + (size_t)(patch / v->grid * size) * (size_t)side + patch % v->grid * size;
    for (int channel = 0; channel < 3; channel++) {
        for (int y = 0; y < size; y++, out += size) {
            memcpy(out, corner + ((size_t)channel * (size_t)side + (size_t)y) * (size_t)side, (size_t)size * sizeof *out);
        }
    }
}

static void embed_block(const Encoder *v, int layer, int first, int n, const VisionRoom *room) {
    SmolEngine *e = v->e;
    int width = 3 * v->c->patch_size * v->c->patch_size;
    const float *pos_emb = engine_vector(e, e->at.pos_emb);  // (n_patch, v_dim)
    (void)layer;
    for (int i = 0; i < n; i++) patch_row(v, row_of(room->in, i, width), first + i);
    Product p = engine_product(e, row_of(e->vx, first, v->ld), v->ld, e->at.patch_w, e->at.patch_w + 1);
    product(room, p, room->in, width, width, n);
    for (int i = first; i < first + n; i++) add(row_of(e->vx, i, v->ld), pos_emb + (size_t)i * (size_t)v->c->v_dim, v->c->v_dim);
}

// ---- one layer ----

// in = LN(x) of n rows; weight and bias lie side by side.
static void normalise(const Encoder *v, int weight, int first, int n, const VisionRoom *room) {
    SmolEngine *e = v->e;
    const float *w = engine_vector(e, weight), *b = engine_vector(e, weight + 1);
    for (int i = 0; i < n; i++) {
        e->kernel->ops->layernorm(row_of(room->in, i, v->ld), row_of(e->vx, first + i, v->ld), w, b, v->c->v_dim, v->c->v_eps);
    }
}

// LN1, then queries to vq, keys and values to the layer's panels.
static void project_qkv(const Encoder *v, int layer, int first, int n, const VisionRoom *room) {
    SmolEngine *e = v->e;
    normalise(v, layer + LN1_W, first, n, room);
    Input in = input_of(room->in, v->ld, v->c->v_dim, room->int8, n);
    const Product qkv[] = {engine_product(e, row_of(e->vq, first, v->ld), v->ld, layer + VQ_W, layer + VQ_B),
                           engine_product(e, room->a, v->ld, layer + VK_W, layer + VK_B),
                           engine_product(e, room->b, v->ld, layer + VV_W, layer + VV_B)};
    multiply(&room->alone, &in, qkv, 3, n);
    if (v->c->weight_type != WEIGHTS_F32) {
        int8_kv_store(e->kernel, &e->vkv8, first, n, room->a, room->b, (size_t)v->ld);
        return;
    }
    for (int i = 0; i < n; i++) kv_store(e->kernel, &e->vkv, first + i, row_of(room->a, i, v->ld), row_of(room->b, i, v->ld));
}

// The product that is added to x from patch first on.
static Product added(const Encoder *v, int weight, int first) {
    Product p = engine_product(v->e, row_of(v->e->vx, first, v->ld), v->ld, weight, weight + 1);
    p.adds = 1;
    return p;
}

// x += fc2(gelu(fc1(LN2(x))))
static void add_mlp(const Encoder *v, int layer, int first, int n, const VisionRoom *room) {
    int hidden = v->c->v_hidden_dim;
    Matrix fc1 = engine_matrix(v->e, layer + FC1_W, layer + FC1_B);
    Product fc2 = added(v, layer + FC2_W, first);
    normalise(v, layer + LN2_W, first, n, room);
    Input in = input_of(room->in, v->ld, v->c->v_dim, room->int8, n), h = input_of(room->h, hidden, hidden, room->int8_h, n);
    multiply_activated(&room->alone, &in, &fc1, NULL, &h, fc2.w.type, n);
    multiply(&room->alone, &h, &fc2, 1, n);
}

// x += out(attention); x += mlp(LN2(x))
static void project_out_mlp(const Encoder *v, int layer, int first, int n, const VisionRoom *room) {
    int most = mlp_rows(&v->e->limits);
    product(room, added(v, layer + VO_W, first), row_of(v->e->vq, first, v->ld), v->ld, v->c->v_dim, n);
    for (int i = 0; i < n; i += most) add_mlp(v, layer, first + i, n - i < most ? n - i : most, room);
}

static void encoder_layer(const Encoder *v, int i) {
    SmolEngine *e = v->e;
    int layer = e->at.vision_layers + i * N_VISION_LAYER, n_threads = e->limits.n_threads;
    for_blocks(v, project_qkv, layer, VISION_BLOCK);  // as int8_kv_store wants them
    if (v->c->weight_type != WEIGHTS_F32) {
        attention_int8(e->kernel, n_threads, e->vq, (size_t)v->ld, v->n_patch, &e->vkv8, e->vscores);
    } else {
        attention(e->kernel, n_threads, e->vq, v->ld, v->n_patch, v->c->v_heads, &e->vkv, v->n_patch, 0, e->vscores);
    }
    for_blocks(v, project_out_mlp, layer, TOKENS);
    engine_trace(e, "model.vision_model.encoder.layers.", i, e->vx, v->n_patch, v->c->v_dim, v->ld);
}

static void last_norm(const Encoder *v, int layer, int first, int n, const VisionRoom *room) {
    normalise(v, layer, first, n, room);
    memcpy(row_of(v->e->vx, first, v->ld), room->in, (size_t)n * (size_t)v->ld * sizeof(float));
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

// The shuffled rows take the place of the queries, which are as many floats.
static void connect(const Encoder *v, float *features) {
    SmolEngine *e = v->e;
    int n = v->c->image_seq_len, dim = v->c->dim, ld = round_up(dim, LANES);
    int width = v->c->v_dim * v->c->scale_factor * v->c->scale_factor;
    for (int i = 0; i < n; i++) shuffle_row(v, row_of(e->vq, i, width), i);
    Input in = input_of(e->vq, width, width, e->shuffled, n);
    Product p = engine_product(e, e->vy, ld, e->at.connector, -1);
    multiply(&e->workers, &in, &p, 1, n);
    for (int i = 0; i < n; i++) memcpy(row_of(features, i, dim), row_of(e->vy, i, ld), (size_t)dim * sizeof *features);
    engine_trace(e, "model.connector", -1, features, n, dim, dim);
}

int smol_encode_tile(SmolEngine *e, const float *pixels, float *features, SmolErr *err) {
    const SmolConfig *c = &e->model->config;
    int grid = c->image_size / c->patch_size;
    const Encoder v = {e, c, pixels, grid, grid * grid, round_up(c->v_dim, LANES)};
    if (!e->limits.vision) return fail(err, SMOL_E_LIMIT, "the engine was started without vision");

    for_blocks(&v, embed_block, 0, TOKENS);
    engine_trace(e, "model.vision_model.embeddings", -1, e->vx, v.n_patch, c->v_dim, v.ld);
    for (int i = 0; i < c->v_layers; i++) {
        encoder_layer(&v, i);
        if (e->progress && e->progress(e->user, "layer", i + 1, c->v_layers)) return fail(err, SMOL_E_CANCELLED, "cancelled");
    }
    for_blocks(&v, last_norm, e->at.post_ln_w, TOKENS);
    engine_trace(e, "model.vision_model.post_layernorm", -1, e->vx, v.n_patch, c->v_dim, v.ld);
    connect(&v, features);
    return 0;
}
