// decoder.c: token ids and feature rows to logits (LlamaModel, MistralModel) and a KV cache.
//
//     x = embedding of the id, or the next feature row where the id is image_token_id           (n_tok, dim)
//     n_layers times:  x += o(attention(rope(q), rope(k), v of norm(x)))                         causal, grouped heads
//                      x += down(silu(gate(norm(x))) * up(norm(x)))
//     logits = lm_head(norm(x))                                                                  (vocab_size)
//
// A prompt goes through in batches, and each token of a batch computes what it would compute alone.

#include "internal.h"

#include <string.h>

// ---- forward ----

// Embeddings and features to e->x; returns the number of features used.
static int embed(SmolEngine *e, const int32_t *ids, int n_tok, const float *features) {
    const SmolConfig *c = &e->model->config;
    int ld = round_up(c->dim, LANES), used = 0;
    Matrix table = engine_matrix(e, e->at.tok_emb, -1);
    for (int t = 0; t < n_tok; t++) {
        if (features && ids[t] == c->image_token_id) {
            memcpy(row_of(e->x, t, ld), features + (size_t)used++ * (size_t)c->dim, (size_t)c->dim * sizeof(float));
        } else {
            matrix_row(row_of(e->x, t, ld), &table, ids[t]);
        }
    }
    return used;
}

#define FEW 16  // tokens: what is done token by token between the products is done sooner by one thread

static void normalise(SmolEngine *e, int weight, int n_tok) {
    const SmolConfig *c = &e->model->config;
    int ld = round_up(c->dim, LANES);
    const float *w = engine_vector(e, weight);
#pragma omp parallel for num_threads(e->limits.n_threads) if (n_tok >= FEW)
    for (int t = 0; t < n_tok; t++) {
        e->kernel->ops->rmsnorm(row_of(e->xb, t, ld), row_of(e->x, t, ld), w, c->dim, c->rms_norm_eps);
    }
}

static void products(SmolEngine *e, const float *x, int ldx, int n_cols, const Product *p, int n, int n_tok) {
    Input in = input_of(x, ldx, n_cols, e->int8, n_tok);
    multiply(&e->workers, &in, p, n, n_tok);
}

// Turns queries and keys to their positions and puts keys and values into the cache.
static void rotate_and_store(SmolEngine *e, const KvLayer *kv, int n_tok) {
    const SmolConfig *c = &e->model->config;
    int ldq = round_up(c->n_heads * c->head_dim, LANES), ldk = round_up(c->n_kv_heads * c->head_dim, LANES);
    int half = c->head_dim / 2, lda = round_up(half, LANES);
#pragma omp parallel for num_threads(e->limits.n_threads) if (n_tok >= FEW)
    for (int t = 0; t < n_tok; t++) {
        const float *cos = row_of(e->cos, t, lda), *sin = row_of(e->sin, t, lda);
        for (int h = 0; h < c->n_heads; h++) rope(row_of(e->q, t, ldq) + h * c->head_dim, cos, sin, half);
        for (int h = 0; h < c->n_kv_heads; h++) rope(row_of(e->k, t, ldk) + h * c->head_dim, cos, sin, half);
        kv_store(e->kernel, kv, e->position + t, row_of(e->k, t, ldk), row_of(e->v, t, ldk));
    }
}

// x += o(attention(q, k, v of norm(x)))
static void attention_half(SmolEngine *e, int i, int n_tok) {
    const SmolConfig *c = &e->model->config;
    int layer = e->at.text_layers + i * N_TEXT_LAYER, ld = round_up(c->dim, LANES), q_dim = c->n_heads * c->head_dim;
    int ldq = round_up(q_dim, LANES), ldk = round_up(c->n_kv_heads * c->head_dim, LANES);
    const Product qkv[] = {engine_product(e, e->q, ldq, layer + WQ, -1), engine_product(e, e->k, ldk, layer + WK, -1),
                           engine_product(e, e->v, ldk, layer + WV, -1)};
    Product o = engine_product(e, e->x, ld, layer + WO, -1);
    o.adds = 1;
    normalise(e, layer + NORM1, n_tok);
    products(e, e->xb, ld, c->dim, qkv, 3, n_tok);
    rotate_and_store(e, &e->kv[i], n_tok);
    attention(e->kernel, e->limits.n_threads, e->q, ldq, n_tok, c->n_heads, &e->kv[i], e->position + 1, 1, e->scores);
    products(e, e->q, ldq, q_dim, &o, 1, n_tok);
}

// x += down(silu(gate(norm(x))) * up(norm(x)))
static void mlp_half(SmolEngine *e, int i, int n_tok) {
    const SmolConfig *c = &e->model->config;
    int layer = e->at.text_layers + i * N_TEXT_LAYER, ld = round_up(c->dim, LANES), hidden = c->hidden_dim;
    Matrix gate = engine_matrix(e, layer + W_GATE, -1), up = engine_matrix(e, layer + W_UP, -1);
    Product down = engine_product(e, e->x, ld, layer + W_DOWN, -1);
    down.adds = 1;
    normalise(e, layer + NORM2, n_tok);
    Input x = input_of(e->xb, ld, c->dim, e->int8, n_tok), h = input_of(e->h, hidden, hidden, e->int8_h, n_tok);
    multiply_activated(&e->workers, &x, &gate, &up, &h, down.w.type, n_tok);
    multiply(&e->workers, &h, &down, 1, n_tok);
}

// One batch; logits of its last token, or of all.
static void forward_batch(SmolEngine *e, int n_tok, int is_last) {
    const SmolConfig *c = &e->model->config;
    int ld = round_up(c->dim, LANES), ldv = round_up(c->vocab_size, LANES), half = c->head_dim / 2, lda = round_up(half, LANES);
    const float *inv_freq = engine_vector(e, e->at.inv_freq);
    const Product head = engine_product(e, e->logits, ldv, e->at.lm_head, -1);
#pragma omp parallel for num_threads(e->limits.n_threads) if (n_tok >= FEW)
    for (int t = 0; t < n_tok; t++) rope_angles(row_of(e->cos, t, lda), row_of(e->sin, t, lda), inv_freq, half, e->position + t);
    engine_trace(e, "inputs_embeds", -1, e->x, n_tok, c->dim, ld);
    for (int i = 0; i < c->n_layers; i++) {
        attention_half(e, i, n_tok);
        mlp_half(e, i, n_tok);
        engine_trace(e, c->family == SMOL_SMOLVLM ? "model.text_model.layers." : "model.layers.", i, e->x, n_tok, c->dim, ld);
    }
    e->position += n_tok;

    normalise(e, e->at.norm, n_tok);
    engine_trace(e, c->family == SMOL_SMOLVLM ? "model.text_model.norm" : "model.norm", -1, e->xb, n_tok, c->dim, ld);
    if (e->limits.all_logits) {
        products(e, e->xb, ld, c->dim, &head, 1, n_tok);
        engine_trace(e, "logits", -1, e->logits, n_tok, c->vocab_size, ldv);
    } else if (is_last) {
        products(e, row_of(e->xb, n_tok - 1, ld), ld, c->dim, &head, 1, 1);
    }
}

static int check_input(const SmolEngine *e, const int32_t *ids, int n_tok, const float *features, int n_features, SmolErr *err) {
    const SmolConfig *c = &e->model->config;
    int n_image = 0;
    for (int t = 0; t < n_tok; t++) {
        if (ids[t] < 0 || ids[t] >= c->vocab_size) return fail(err, SMOL_E_LIMIT, "token id %d is not in the vocabulary", ids[t]);
        n_image += ids[t] == c->image_token_id;
    }
    if (n_tok < 1 || n_tok > e->limits.context - e->position) {
        return fail(err, SMOL_E_LIMIT, "%d tokens do not fit: the context holds %d and %d are taken", n_tok, e->limits.context,
                    e->position);
    }
    if (features && n_image != n_features) {
        return fail(err, SMOL_E_LIMIT, "the prompt has %d image tokens for %d feature rows", n_image, n_features);
    }
    return 0;
}

// Damaged weights end in an error, not in an answer that means nothing. NaN and infinity have all bits of the exponent set.
static int check_logits(const SmolEngine *e, int n_rows, SmolErr *err) {
    int n = e->model->config.vocab_size;
    uint32_t most = 0;
    for (int row = 0; row < n_rows; row++) {
        const float *logits = row_of(e->logits, row, round_up(n, LANES));
        for (int i = 0; i < n; i++) {
            uint32_t bits;
            memcpy(&bits, &logits[i], sizeof bits);
            bits &= 0x7fffffff;
            most = bits > most ? bits : most;
        }
    }
    if (most < 0x7f800000) return 0;
    return fail(err, SMOL_E_FORMAT, "NaN or infinity among the logits: weights of the model are damaged (--verify names them)");
}

int smol_forward(SmolEngine *e, const int32_t *ids, int n_tok, const float *features, int n_features, const float **logits,
                 SmolErr *err) {
    const SmolConfig *c = &e->model->config;
    int code = check_input(e, ids, n_tok, features, n_features, err);
    if (code) return code;
    for (int t = 0, n; t < n_tok; t += n) {
        n = n_tok - t < e->limits.batch ? n_tok - t : e->limits.batch;
        int used = embed(e, ids + t, n, features);
        if (features) features += (size_t)used * (size_t)c->dim;
        forward_batch(e, n, t + n == n_tok);
        int n_rows = e->limits.all_logits ? n : t + n == n_tok;
        if ((code = check_logits(e, n_rows, err))) return code;
        *logits = row_of(e->logits, n_rows > 0 ? n_rows - 1 : 0, round_up(c->vocab_size, LANES));
        if (e->progress && e->progress(e->user, "prompt", t + n, n_tok) && t + n < n_tok) {
            return fail(err, SMOL_E_CANCELLED, "cancelled");
        }
    }
    return 0;
}
