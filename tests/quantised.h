// quantised.h: the tiny model with matrices of Q8 or Q4, whose weights are random: for tests that ask whether it works, not
// what it says.

#ifndef QUANTISED_H
#define QUANTISED_H

#include "../internal.h"
#include "random.h"
#include "test.h"

static inline void put_u32(unsigned char *at, uint32_t v) {
    for (int i = 0; i < 4; i++) at[i] = (unsigned char)(v >> (8 * i));
}

static inline void put_u64(unsigned char *at, uint64_t v) {
    put_u32(at, (uint32_t)v);
    put_u32(at + 4, (uint32_t)(v >> 32));
}

// Panels of random quants with scales so small that the model's numbers stay modest.
static inline void fill_panels(unsigned char *data, size_t n, size_t panel, int n_blocks) {
    for (size_t at = 0; at < n; at += panel) {
        memset(data + at, 0, panel);
        for (int i = 0; i < n_blocks * LANES; i++) data[at + 2 * (size_t)i + 1] = 0x12;  // the f16 0.00073
        size_t quants = ((size_t)n_blocks * LANES * 2 + 63) / 64 * 64;
        for (size_t i = quants; i < panel; i++) data[at + i] = (unsigned char)(1 + random_below(255));
    }
}

static inline void put_digest(unsigned char *entry, const unsigned char *data, size_t n) {
    SmolSha256 s;
    smol_sha256_init(&s);
    smol_sha256_add(&s, data, n);
    smol_sha256_end(&s, entry + 128);
}

// The same model with weights of another type: SMOL_Q8 or SMOL_Q4. Malloced, *n bytes.
static inline unsigned char *quantised_copy(const SmolModel *m, int type, size_t *n) {
    size_t directory = (size_t)get_u64(m->bytes + 48), end = directory + (size_t)m->n_tensors * 160;
    unsigned char *file = calloc(1, m->n_bytes + ((size_t)1 << 16));  // small matrices may grow
    if (!file) exit(2);
    memcpy(file, m->bytes, end);
    for (int i = 0; i < m->n_tensors; i++) {
        SmolTensor t;
        unsigned char *entry = file + directory + (size_t)i * 160;
        smol_tensor(m, i, &t);
        end = (end + 63) / 64 * 64;
        if (t.type == SMOL_F32X16) {
            int block = type == SMOL_Q8 ? Q8_BLOCK : Q4_BLOCK;
            size_t panel = (size_t)panel_bytes(type, t.n_cols);
            t.bytes = panel * (size_t)((t.n_rows + LANES - 1) / LANES);
            if (end + t.bytes > m->n_bytes + ((size_t)1 << 16)) exit(2);
            fill_panels(file + end, t.bytes, panel, (t.n_cols + block - 1) / block);
            put_u32(entry + 96, (uint32_t)type);
        } else {
            memcpy(file + end, t.data, t.bytes);
        }
        put_u64(entry + 112, end);
        put_u64(entry + 120, t.bytes);
        put_digest(entry, file + end, t.bytes);
        end += t.bytes;
    }
    put_u32(file + 60, type == SMOL_Q8 ? WEIGHTS_Q8 : WEIGHTS_Q4);
    put_u64(file + 8, end);
    *n = end;
    return file;
}

#endif
