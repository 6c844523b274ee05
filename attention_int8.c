// attention_int8.c: attention of the encoder when the weights are quantised: every patch sees all patches, and both products
// are those of quant.c in int8. The keys become the Q8 weights of one product, with 16 positions as the rows of a panel; the
// values become those of the other, with 16 elements of the head as the rows and blocks of 64 positions along k.

#include "internal.h"

#include <math.h>
#include <string.h>

#define QUERIES 16  // that share a pass over keys and values

static _Alignas(64) const float zeros[2 * LANES];

// ---- the layout of keys and values ----

// Elements of a head that share a scale: all of them, unless the head is uncommonly long.
static int key_block(int head_dim) { return head_dim <= 2 * Q8_BLOCK ? round_up(head_dim, 4) : Q8_BLOCK; }

static Strip keys_of(const Int8Kv *kv, int head, int panel, int n_panels) {
    int block = key_block(kv->head_dim), n_blocks = (kv->head_dim + block - 1) / block;
    size_t bytes = (size_t)q8_panel_bytes(block, n_blocks), n = (size_t)round_up(kv->n_pos, LANES) / LANES;
    return (Strip){kv->k + ((size_t)head * n + (size_t)panel) * bytes, bytes, n_panels, block, n_blocks, zeros};
}

static Strip values_of(const Int8Kv *kv, int head, int panel, int n_panels) {
    int n_blocks = (kv->n_pos + Q8_BLOCK - 1) / Q8_BLOCK;
    size_t bytes = (size_t)q8_panel_bytes(Q8_BLOCK, n_blocks), n = (size_t)round_up(kv->head_dim, LANES) / LANES;
    return (Strip){kv->v + ((size_t)head * n + (size_t)panel) * bytes, bytes, n_panels, Q8_BLOCK, n_blocks, zeros};
}

uint64_t int8_kv_bytes(int n_pos, int n_heads, int head_dim, uint64_t *v_bytes) {
    int block = key_block(head_dim);
    uint64_t keys = q8_panel_bytes(block, (head_dim + block - 1) / block) * (uint64_t)((n_pos + LANES - 1) / LANES);
    uint64_t values = q8_panel_bytes(Q8_BLOCK, (n_pos + Q8_BLOCK - 1) / Q8_BLOCK) * (uint64_t)((head_dim + LANES - 1) / LANES);
    *v_bytes = values * (uint64_t)n_heads;
    return keys * (uint64_t)n_heads;
}

// ---- storing ----

// 16 positions of one head, of which n are there.  k (n, ld)
static void store_keys(const Kernel *kernel, const Int8Kv *kv, int head, int panel, const float *k, size_t ld, int n) {
    Strip s = keys_of(kv, head, panel, 1);
    uint8_t *to = kv->k + (s.panel - kv->k), *quants = to + (strip_quants(&s) - s.panel);
    for (int b = 0; b < s.n_blocks; b++) {
        float tile[2 * Q8_BLOCK][LANES] = {0};
        int width = kv->head_dim - b * s.block < s.block ? kv->head_dim - b * s.block : s.block;
        for (int r = 0; r < n; r++) {
            for (int d = 0; d < width; d++) tile[d][r] = k[(size_t)r * ld + (size_t)(b * s.block + d)];
        }
        kernel->ops->pack_q8((uint16_t *)(void *)to + b * LANES, quants + (size_t)(b * s.block * LANES), tile[0], s.block);
    }
}

// A block of 64 positions of one head, of which n are there; 16 of its elements, of which width are.  v (n, ld)
static void store_values(const Kernel *kernel, const Int8Kv *kv, int head, int panel, int block, const float *v, size_t ld,
                         int n) {
    float tile[Q8_BLOCK][LANES] = {0};
    Strip s = values_of(kv, head, panel, 1);
    uint8_t *to = kv->v + (s.panel - kv->v), *quants = to + (strip_quants(&s) - s.panel);
    int width = kv->head_dim - panel * LANES < LANES ? kv->head_dim - panel * LANES : LANES;
    for (int p = 0; p < n; p++) memcpy(tile[p], v + (size_t)p * ld + panel * LANES, (size_t)width * sizeof *v);
    kernel->ops->pack_q8((uint16_t *)(void *)to + block * LANES, quants + (size_t)(block * Q8_BLOCK * LANES), tile[0], Q8_BLOCK);
}

void int8_kv_store(const Kernel *kernel, const Int8Kv *kv, int first, int n, const float *k, const float *v, size_t ld) {
    for (int head = 0; head < kv->n_heads; head++, k += kv->head_dim, v += kv->head_dim) {
        for (int p = 0; p < n; p += LANES) {
            store_keys(kernel, kv, head, (first + p) / LANES, k + (size_t)p * ld, ld, n - p < LANES ? n - p : LANES);
        }
        for (int d = 0; d < kv->head_dim; d += LANES) store_values(kernel, kv, head, d / LANES, first / Q8_BLOCK, v, ld, n);
    }
}

// ---- attention ----

// One thread's room.
typedef struct {
    Int8Rows q, p;  // (QUERIES, head_dim), (QUERIES, n_pos)
    float *scores;  // (QUERIES, Q8_BLOCK)
    float *out;     // (QUERIES, ld)
    size_t ld;
} Room;

static uint64_t out_row(int head_dim) { return (uint64_t)round_up(head_dim, 2 * LANES); }

uint64_t attention_int8_bytes(int n_pos, int head_dim) {
    return int8_bytes(QUERIES, head_dim) + int8_bytes(QUERIES, n_pos) + 4 * QUERIES * (Q8_BLOCK + out_row(head_dim));
}

static Room room_at(uint8_t *bytes, int n_pos, int head_dim) {
    Room r = {.ld = (size_t)out_row(head_dim)};
    r.q = int8_rows(bytes, QUERIES, head_dim);
    bytes += int8_bytes(QUERIES, head_dim);
    r.p = int8_rows(bytes, QUERIES, n_pos);
    r.scores = (float *)(void *)(bytes + int8_bytes(QUERIES, n_pos));
    r.out = r.scores + QUERIES * Q8_BLOCK;
    return r;
}

typedef Strip StripOf(const Int8Kv *kv, int head, int panel, int n_panels);  // keys_of, values_of

// y = x W^T for n_q queries; rows first .. end - 1 of W are the head's keys or values. One strip of two panels after the other.
static void product(const Kernel *kernel, float *y, size_t ldy, const Int8Rows *x, StripOf *strip_of, const Int8Kv *kv, int head,
                    int first, int end, int n_q) {
    for (int row = first; row < end; row += 2 * LANES) {
        Strip w = strip_of(kv, head, row / LANES, end - row > LANES ? 2 : 1);
        kernel->strip_q8(y + (row - first), ldy, &w, x, n_q);
    }
}

// Scores become weights a block at a time, while they are in the cache.
static void weigh(const Kernel *kernel, const Int8Kv *kv, int head, const Room *room, int n_q, float inverse[QUERIES]) {
    float factor = 1 / sqrtf((float)kv->head_dim);
    int n_blocks = 0;
    for (int p = 0; p < kv->n_pos; p += Q8_BLOCK, n_blocks++) {
        int n = kv->n_pos - p < Q8_BLOCK ? kv->n_pos - p : Q8_BLOCK;
        product(kernel, room->scores, Q8_BLOCK, &room->q, keys_of, kv, head, p, p + n, n_q);
        for (int i = 0; i < n_q; i += TOKENS) {
            kernel->ops->softmax_block(&room->p, i, group_rows(n_q, i), n_blocks, room->scores + i * Q8_BLOCK, n, factor);
        }
    }
    for (int i = 0; i < n_q; i += TOKENS) {
        kernel->ops->softmax_scales(&room->p, i, group_rows(n_q, i), n_blocks, factor, inverse + i);
    }
}

// One head, n_q queries: q (n_q, ldq) becomes the output.
static void attend(const Kernel *kernel, float *q, size_t ldq, int n_q, const Int8Kv *kv, int head, const Room *room) {
    float inverse[QUERIES];
    for (int i = 0; i < n_q; i += TOKENS) {
        const float *from = q + (size_t)i * ldq;
        kernel->ops->quantise(&room->q, i, group_rows(n_q, i), from, ldq, kv->head_dim, key_block(kv->head_dim));
    }
    weigh(kernel, kv, head, room, n_q, inverse);
    product(kernel, room->out, room->ld, &room->p, values_of, kv, head, 0, kv->head_dim, n_q);
    for (int i = 0; i < n_q; i++) {
        const float *out = room->out + (size_t)i * room->ld;
        for (int d = 0; d < kv->head_dim; d++) q[(size_t)i * ldq + (size_t)d] = out[d] * inverse[i];
    }
}

void attention_int8(const Kernel *kernel, int n_threads, float *q, size_t ldq, int n_tok, const Int8Kv *kv, uint8_t *scratch) {
    int n_blocks = (n_tok + QUERIES - 1) / QUERIES;
    size_t part = (size_t)attention_int8_bytes(kv->n_pos, kv->head_dim);
#pragma omp parallel for num_threads(n_threads) schedule(static, 1)
    for (int thread = 0; thread < n_threads; thread++) {
        Room room = room_at(scratch + (size_t)thread * part, kv->n_pos, kv->head_dim);
        // Heads outside: a head's keys and values stay in the cache for all of its queries.
        for (int i = thread; i < n_blocks * kv->n_heads; i += n_threads) {
            int head = i / n_blocks, first = i % n_blocks * QUERIES;
            attend(kernel, q + (size_t)first * ldq + head * kv->head_dim, ldq, n_tok - first < QUERIES ? n_tok - first : QUERIES,
                   kv, head, &room);
        }
    }
}
