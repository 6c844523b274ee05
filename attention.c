// attention.c: softmax(q k^T / sqrt(head_dim)) v in floats, for the decoder (causal, several query heads to one key-value head)
// and for the encoder of an f32 model (every patch sees all), without ever holding more than a block of the score matrix.
//
// Both products are the panel product of quant.c. Scores: 16 positions are the 16 lanes, k runs over head_dim. Output: 16
// elements of the head are the lanes, k runs over the positions. So nothing is summed across lanes here either.

#include "internal.h"

#include <math.h>
#include <string.h>

#define QUERIES 16  // tokens that share a pass over the keys, with all heads that read the same ones
#define CHUNK 64    // positions that are taken, and widened to floats, at a time

// ---- the cache ----

static size_t element_bytes(const KvLayer *kv) {
    return kv->type == KV_F32 ? sizeof(float) : kv->type == KV_F16 ? sizeof(uint16_t) : sizeof(int8_t);
}

static uint64_t positions(const KvLayer *kv) { return (uint64_t)kv->n_kv_heads * (uint64_t)round_up(kv->n_pos, LANES); }

static uint64_t k_bytes(const KvLayer *kv) { return positions(kv) * (uint64_t)kv->head_dim * element_bytes(kv); }

static uint64_t v_bytes(const KvLayer *kv) { return positions(kv) * (uint64_t)round_up(kv->head_dim, LANES) * element_bytes(kv); }

static uint64_t scales_bytes(const KvLayer *kv) { return kv->type == KV_INT8 ? positions(kv) * sizeof(float) : 0; }

uint64_t kv_bytes(const KvLayer *kv) { return k_bytes(kv) + v_bytes(kv) + 2 * scales_bytes(kv); }

void kv_place(KvLayer *kv, void *room) {
    uint8_t *at = room;
    kv->k = at;
    kv->v = at += (size_t)k_bytes(kv);
    kv->k_scale = (float *)(void *)(at += (size_t)v_bytes(kv));
    kv->v_scale = (float *)(void *)(at + (size_t)scales_bytes(kv));
}

// Where the panel of keys (head_dim, 16) that holds this position begins.
static size_t key_panel(const KvLayer *kv, int head, int position) {
    size_t n_panels = (size_t)round_up(kv->n_pos, LANES) / LANES;
    return ((size_t)head * n_panels + (size_t)(position / LANES)) * (size_t)kv->head_dim * LANES;
}

// The number of a head's position among those of all heads: that of its scales.
static size_t place_of(const KvLayer *kv, int head, int position) {
    return (size_t)head * (size_t)round_up(kv->n_pos, LANES) + (size_t)position;
}

// Where the values of one position (head_dim rounded up to 16) begin.
static size_t value_row(const KvLayer *kv, int head, int position) {
    return place_of(kv, head, position) * (size_t)round_up(kv->head_dim, LANES);
}

// Copies n elements, which lie steps apart.
static void copy_elements(uint8_t *to, size_t to_step, const uint8_t *from, size_t from_step, size_t size, int n) {
    for (int i = 0; i < n; i++) memcpy(to + (size_t)i * to_step * size, from + (size_t)i * from_step * size, size);
}

// The key of a position, and its value with the zeros behind it.
static uint8_t *key_of(const KvLayer *kv, int head, int position) {
    return (uint8_t *)kv->k + (key_panel(kv, head, position) + (size_t)(position % LANES)) * element_bytes(kv);
}

static uint8_t *value_of(const KvLayer *kv, int head, int position) {
    return (uint8_t *)kv->v + value_row(kv, head, position) * element_bytes(kv);
}

// head_dim floats become elements that lie side by side. Returns their scale.
static float convert(const Kernel *kernel, const KvLayer *kv, void *to, const float *x) {
    if (kv->type == KV_INT8) return kernel->ops->narrow8(to, x, kv->head_dim);
    if (kv->type == KV_F16) kernel->ops->narrow(to, x, kv->head_dim);
    else memcpy(to, x, (size_t)kv->head_dim * sizeof *x);
    return 1;
}

// Lanes of positions to come are left as they are: their scores are computed and never read.
void kv_store(const Kernel *kernel, const KvLayer *kv, int position, const float *k, const float *v) {
    size_t size = element_bytes(kv), n = (size_t)kv->head_dim * size;
    size_t pad = (size_t)(round_up(kv->head_dim, LANES) - kv->head_dim) * size;
    for (int head = 0; head < kv->n_kv_heads; head++, k += kv->head_dim, v += kv->head_dim) {
        uint8_t *value = value_of(kv, head, position);
        float k_scale = convert(kernel, kv, value, k);  // the key passes through the value's place
        copy_elements(key_of(kv, head, position), LANES, value, 1, size, kv->head_dim);
        float v_scale = convert(kernel, kv, value, v);
        memset(value + n, 0, pad);
        if (kv->type != KV_INT8) continue;
        kv->k_scale[place_of(kv, head, position)] = k_scale;
        kv->v_scale[place_of(kv, head, position)] = v_scale;
    }
}

static size_t head_bytes(const KvLayer *kv) {
    return 2 * (size_t)kv->head_dim * element_bytes(kv) + (kv->type == KV_INT8 ? 2 * sizeof(float) : 0);
}

size_t kv_position_bytes(const KvLayer *kv) { return (size_t)kv->n_kv_heads * head_bytes(kv); }

void kv_get(const KvLayer *kv, int position, uint8_t *out) {
    size_t size = element_bytes(kv), n = (size_t)kv->head_dim * size;
    for (int head = 0; head < kv->n_kv_heads; head++, out += head_bytes(kv)) {
        copy_elements(out, 1, key_of(kv, head, position), LANES, size, kv->head_dim);
        memcpy(out + n, value_of(kv, head, position), n);
        if (kv->type != KV_INT8) continue;
        memcpy(out + 2 * n, &kv->k_scale[place_of(kv, head, position)], sizeof(float));
        memcpy(out + 2 * n + sizeof(float), &kv->v_scale[place_of(kv, head, position)], sizeof(float));
    }
}

void kv_put(const KvLayer *kv, int position, const uint8_t *bytes) {
    size_t size = element_bytes(kv), n = (size_t)kv->head_dim * size;
    size_t pad = (size_t)(round_up(kv->head_dim, LANES) - kv->head_dim) * size;
    for (int head = 0; head < kv->n_kv_heads; head++, bytes += head_bytes(kv)) {
        uint8_t *value = value_of(kv, head, position);
        copy_elements(key_of(kv, head, position), LANES, bytes, 1, size, kv->head_dim);
        memcpy(value, bytes + n, n);
        memset(value + n, 0, pad);
        if (kv->type != KV_INT8) continue;
        memcpy(&kv->k_scale[place_of(kv, head, position)], bytes + 2 * n, sizeof(float));
        memcpy(&kv->v_scale[place_of(kv, head, position)], bytes + 2 * n + sizeof(float), sizeof(float));
    }
}

// n elements from place i of k or v as floats, scales aside: where they lie, or widened into room.
static const float *floats(const Kernel *kernel, const KvLayer *kv, const void *from, size_t i, int n, float *room) {
    if (kv->type == KV_F32) return (const float *)from + i;
    if (kv->type == KV_F16) kernel->ops->widen(room, (const uint16_t *)from + i, n);
    else kernel->ops->widen8(room, (const int8_t *)from + i, n);
    return room;
}

// Scales of int8 are those of positions: they go to the scores, and to the weights that the values get.
static void apply_scales(const KvLayer *kv, int head, float *x, const float *scale, int n) {
    if (kv->type != KV_INT8) return;
    scale += place_of(kv, head, 0);
    for (int i = 0; i < n; i++) x[i] *= scale[i];
}

// ---- attention ----

// Rows of scores are (token, head) pairs: all heads of one key-value head, token by token.
typedef struct {
    const Kernel *kernel;
    const KvLayer *kv;
    float *q;  // of the first token and head
    size_t ldq;
    int head, n_q, group;  // key-value head; tokens; query heads of each
    int n_seen, causal;
    float *scores, *out, *wide;  // (n_q * group, ld), (n_q * group, width), a chunk of keys or values
    size_t ld;
    int width;
} Block;

uint64_t attention_floats(int n_pos, int n_heads, int n_kv_heads, int head_dim) {
    uint64_t width = (uint64_t)round_up(head_dim, LANES), rows = QUERIES * (uint64_t)(n_heads / n_kv_heads);
    return rows * ((uint64_t)round_up(n_pos, LANES) + width) + CHUNK * width;
}

static float *scores_of(const Block *b, int token, int head) { return b->scores + (size_t)(head * b->n_q + token) * b->ld; }

static float *out_of(const Block *b, int token, int head) { return b->out + (size_t)(head * b->n_q + token) * (size_t)b->width; }

// Positions that token t sees.
static int seen(const Block *b, int t) { return b->n_seen + (b->causal ? t : 0); }

// Of a single token the heads are the rows of a product. What so few rows read is not worth widening beforehand.
// from, i, n: of keys or values, as in floats(); strip: what else is to be known of them
static void multiply_heads(const Block *b, float *y, size_t ldy, const void *from, size_t i, int n, StripF32 strip, const float *x,
                           size_t ldx) {
    if (b->kv->type == KV_F16 && b->kernel->strip_f16) {
        StripF16 half = {(const uint16_t *)from + i, strip.ldw, strip.step, strip.n_panels, strip.n_k, (size_t)n};
        b->kernel->strip_f16(y, ldy, &half, x, ldx, b->group);
    } else {
        strip.w = floats(b->kernel, b->kv, from, i, n, b->wide);
        b->kernel->strip_f32(y, ldy, &strip, x, ldx, b->group);
    }
}

static void score(const Block *b) {
    const KvLayer *kv = b->kv;
    size_t panel = (size_t)kv->head_dim * LANES;
    int most = seen(b, b->n_q - 1);
    for (int p = 0; p < most; p += CHUNK) {
        int n_panels = (most - p < CHUNK ? round_up(most - p, LANES) : CHUNK) / LANES;
        size_t first = key_panel(kv, b->head, p);
        StripF32 strip = {NULL, LANES, panel, n_panels, kv->head_dim};
        if (b->n_q == 1) {
            multiply_heads(b, scores_of(b, 0, 0) + p, b->ld, kv->k, first, n_panels * (int)panel, strip, b->q, (size_t)kv->head_dim);
            continue;
        }
        strip.w = floats(b->kernel, kv, kv->k, first, n_panels * (int)panel, b->wide);
        for (int h = 0; h < b->group; h++) {
            b->kernel->strip_f32(scores_of(b, 0, h) + p, b->ld, &strip, b->q + h * kv->head_dim, b->ldq, b->n_q);
        }
    }
    for (int i = 0; i < b->n_q * b->group; i++) {
        float *row = b->scores + (size_t)i * b->ld;
        int n = seen(b, i % b->n_q);
        apply_scales(kv, b->head, row, kv->k_scale, n);
        b->kernel->ops->softmax(row, n, 1 / sqrtf((float)kv->head_dim));
        apply_scales(kv, b->head, row, kv->v_scale, n);
    }
}

// Positions p .. p + n - 1 for the tokens that see them: for each output the sum runs over positions in order.
static void weigh(const Block *b, int p, int n) {
    const KvLayer *kv = b->kv;
    size_t width = (size_t)b->width, row = value_row(kv, b->head, p);
    StripF32 strip = {NULL, width, LANES, b->width / LANES, n};
    if (b->n_q == 1) {
        multiply_heads(b, out_of(b, 0, 0), width, kv->v, row, n * b->width, strip, scores_of(b, 0, 0) + p, b->ld);
        return;
    }
    strip.w = floats(b->kernel, kv, kv->v, row, n * b->width, b->wide);
    // What the first token sees, all see; the rest, at most as many positions as there are tokens, is each token's own.
    int common = seen(b, 0) - p < n ? seen(b, 0) - p > 0 ? seen(b, 0) - p : 0 : n;
    for (int h = 0; h < b->group; h++) {
        strip.n_k = common;
        if (common) b->kernel->strip_f32(out_of(b, 0, h), width, &strip, scores_of(b, 0, h) + p, b->ld, b->n_q);
        for (int t = 0; t < b->n_q && common < n; t++) {
            int end = seen(b, t) - p < n ? seen(b, t) - p : n;
            StripF32 own = {strip.w + (size_t)common * width, width, LANES, b->width / LANES, end - common};
            if (end > common) b->kernel->strip_f32(out_of(b, t, h), 0, &own, scores_of(b, t, h) + p + common, 0, 1);
        }
    }
}

static void attend(Block *b, float *scratch) {
    int rows = b->n_q * b->group, most = seen(b, b->n_q - 1);
    b->width = round_up(b->kv->head_dim, LANES);
    b->ld = (size_t)round_up(most, LANES);
    b->scores = scratch;
    b->out = b->scores + (size_t)rows * b->ld;
    b->wide = b->out + rows * b->width;
    memset(scratch, 0, (size_t)(b->wide - scratch) * sizeof *scratch);
    score(b);
    for (int p = 0; p < most; p += CHUNK) weigh(b, p, most - p < CHUNK ? most - p : CHUNK);
    for (int i = 0; i < rows; i++) {
        float *q = b->q + (size_t)(i % b->n_q) * b->ldq + i / b->n_q * b->kv->head_dim;
        memcpy(q, b->out + i * b->width, (size_t)b->kv->head_dim * sizeof *q);
    }
}

void attention(const Kernel *kernel, int n_threads, float *q, int ldq, int n_tok, int n_heads, const KvLayer *kv, int n_seen,
               int causal, float *scratch) {
    int n_blocks = (n_tok + QUERIES - 1) / QUERIES, group = n_heads / kv->n_kv_heads;
    size_t part = (size_t)attention_floats(kv->n_pos, n_heads, kv->n_kv_heads, kv->head_dim);
    int64_t work = (int64_t)n_tok * (n_seen + (causal ? n_tok / 2 : 0)) * n_heads * kv->head_dim;
    if (work < 1 << 17) n_threads = 1;  // as in multiply
#pragma omp parallel for num_threads(n_threads) schedule(static, 1)
    for (int thread = 0; thread < n_threads; thread++) {
        for (int i = thread; i < n_blocks * kv->n_kv_heads; i += n_threads) {
            int head = i % kv->n_kv_heads, first = i / kv->n_kv_heads * QUERIES;
            Block b = {kernel, kv, q + (size_t)first * (size_t)ldq + head * group * kv->head_dim, (size_t)ldq, head,
                       n_tok - first < QUERIES ? n_tok - first : QUERIES, group, n_seen + (causal ? first : 0), causal,
                       NULL, NULL, NULL, 0, 0};
            attend(&b, scratch + (size_t)thread * part);
        }
    }
}
