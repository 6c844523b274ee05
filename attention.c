// attention.c: softmax(q k^T / sqrt(head_dim)) v, for the encoder (every patch sees all) and the decoder (causal, several query
// heads to one key-value head), without ever holding more than a block of the score matrix.
//
// Both products are the panel product of quant.c. Scores: 16 positions are the 16 lanes, k runs over head_dim. Output: 16
// elements of the head are the lanes, k runs over the positions. So nothing is summed across lanes here either.

#include "internal.h"

#include <math.h>
#include <string.h>

#define QUERIES 16  // that share a pass over the keys

uint64_t kv_floats(int n_pos, int n_kv_heads, int head_dim, uint64_t *v_floats) {
    uint64_t positions = (uint64_t)round_up(n_pos, LANES) * (uint64_t)n_kv_heads;
    *v_floats = positions * (uint64_t)round_up(head_dim, LANES);
    return positions * (uint64_t)head_dim;
}

// The panel of keys (head_dim, 16) that holds this position.
static float *key_panel(const KvLayer *kv, int head, int position) {
    size_t n_panels = (size_t)round_up(kv->n_pos, LANES) / LANES;
    return kv->k + ((size_t)head * n_panels + (size_t)(position / LANES)) * (size_t)kv->head_dim * LANES;
}

// The values of one position (head_dim rounded up to 16).
static float *value_row(const KvLayer *kv, int head, int position) {
    size_t n_pos = (size_t)round_up(kv->n_pos, LANES);
    return kv->v + ((size_t)head * n_pos + (size_t)position) * (size_t)round_up(kv->head_dim, LANES);
}

void kv_store(const KvLayer *kv, int position, const float *k, const float *v) {
    size_t width = (size_t)kv->head_dim;
    for (int head = 0; head < kv->n_kv_heads; head++, k += width, v += width) {
        float *panel = key_panel(kv, head, position);
        if (position % LANES == 0) memset(panel, 0, width * LANES * sizeof *panel);  // the lanes of positions to come
        for (size_t d = 0; d < width; d++) panel[d * LANES + (size_t)(position % LANES)] = k[d];
        float *row = value_row(kv, head, position);
        memcpy(row, v, width * sizeof *v);
        memset(row + width, 0, ((size_t)round_up(kv->head_dim, LANES) - width) * sizeof *row);
    }
}

uint64_t attention_floats(int n_pos, int head_dim) {
    return QUERIES * ((uint64_t)round_up(n_pos, LANES) + (uint64_t)round_up(head_dim, LANES));
}

// One head, n_q consecutive queries; the first sees n_seen positions.
static void attend(const Kernel *kernel, float *q, size_t ldq, int n_q, const KvLayer *kv, int head, int n_seen, int causal,
                   float *scratch) {
    int width = round_up(kv->head_dim, LANES), most = n_seen + (causal ? n_q - 1 : 0);
    size_t ld = (size_t)round_up(most, LANES);
    float *scores = scratch;                // (n_q, ld)
    float *out = scratch + (size_t)n_q * ld;  // (n_q, width)
    memset(scratch, 0, (size_t)n_q * (ld + (size_t)width) * sizeof *scratch);

    for (int p = 0; p < most; p += LANES) {
        kernel->panel_f32(scores + p, ld, key_panel(kv, head, p), LANES, q, ldq, kv->head_dim, n_q);
    }
    for (int i = 0; i < n_q; i++) softmax(scores + (size_t)i * ld, n_seen + (causal ? i : 0), 1 / sqrtf((float)kv->head_dim));

    // What all queries see, then for each what the later ones see besides: every sum still runs over positions in order.
    for (int d = 0; d < width; d += LANES) {
        kernel->panel_f32(out + d, (size_t)width, value_row(kv, head, 0) + d, (size_t)width, scores, ld, n_seen, n_q);
        for (int i = 1; causal && i < n_q; i++) {
            kernel->panel_f32(out + i * width + d, 0, value_row(kv, head, n_seen) + d, (size_t)width,
                              scores + (size_t)i * ld + n_seen, 0, i, 1);
        }
    }
    for (int i = 0; i < n_q; i++) memcpy(q + (size_t)i * ldq, out + i * width, (size_t)kv->head_dim * sizeof *q);
}

void attention(const Kernel *kernel, int n_threads, float *q, int ldq, int n_tok, int n_heads, const KvLayer *kv, int n_seen,
               int causal, float *scratch) {
    int n_blocks = (n_tok + QUERIES - 1) / QUERIES, heads_per_kv = n_heads / kv->n_kv_heads;
    size_t part = (size_t)attention_floats(kv->n_pos, kv->head_dim);
    int64_t work = (int64_t)n_tok * (n_seen + (causal ? n_tok / 2 : 0)) * n_heads * kv->head_dim;
    if (work < 1 << 20) n_threads = 1;  // as in matmul
#pragma omp parallel for num_threads(n_threads) schedule(static, 1)
    for (int thread = 0; thread < n_threads; thread++) {
        for (int i = thread; i < n_blocks * n_heads; i += n_threads) {
            int head = i % n_heads, first = i / n_heads * QUERIES;
            int n_q = n_tok - first < QUERIES ? n_tok - first : QUERIES;
            attend(kernel, q + (size_t)first * (size_t)ldq + head * kv->head_dim, (size_t)ldq, n_q, kv, head / heads_per_kv,
                   n_seen + (causal ? first : 0), causal, scratch + (size_t)thread * part);
        }
    }
}
